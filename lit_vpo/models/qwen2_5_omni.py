"""Qwen2.5-Omni's thinker: Qwen2.5-VL's eyes, and a language model that also hears; so far it only sees here."""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from typing_extensions import override

from lit_vpo.models.qwen2_5_vl import window_tower
from lit_vpo.models.qwen2_vl import Qwen2VL, qwen_language_model, qwen_processor, qwen_tokens
from lit_vpo.models.registry import register
from lit_vpo.models.tiny import Sizes, build, tiny_model, token_id
from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

AUDIO_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


@register
class Qwen2_5_Omni(Qwen2VL):
    """`Qwen2_5OmniThinkerForConditionalGeneration`, from its own folder or from that of a whole Qwen2.5-Omni."""

    name: ClassVar[str] = "qwen2_5_omni"
    model_type: ClassVar[str] = "qwen2_5_omni_thinker"
    needs_token_types: ClassVar[bool] = False
    per_video: ClassVar[tuple[str, ...]] = ("video_grid_thw", "video_second_per_grid")

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    @override
    def position_ids(self, net: Any, rows: dict[str, Any]) -> Tensor:
        positions, _ = net.model.get_rope_index(
            rows["input_ids"],
            video_grid_thw=rows.get("video_grid_thw"),
            attention_mask=rows["attention_mask"],
            second_per_grids=rows.get("video_second_per_grid"),
        )
        return positions  # type: ignore[no-any-return]


@tiny_model
def tiny_qwen2_5_omni(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small Qwen2.5-Omni thinker: window attention with one full layer, M-RoPE, an audio tower of one layer.

    Its patches are large because the processor's class asks for 128 * 28 * 28 pixels a frame, whatever the video
    processor says: two frames become 25 visual tokens or more.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package; it needs `AUDIO_TOKENS`.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerConfig, WhisperFeatureExtractor
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    size = Sizes(**{"image_size": 320, "patch_size": 32} | sizes)
    size.check_frame(2 * size.patch_size)
    tokenizer = tokenizer or load_tokenizer(AUDIO_TOKENS)
    tokens = qwen_tokens(tokenizer)
    config = Qwen2_5OmniThinkerConfig(
        vision_config=window_tower(size),
        text_config=qwen_language_model(size, tokenizer),
        audio_config=_ears(size),
        image_token_index=tokens.pop("image_token_id"),
        video_token_index=tokens.pop("video_token_id"),
        audio_token_index=token_id(tokenizer, AUDIO_TOKENS["audio_token"]),
        audio_start_token_id=token_id(tokenizer, AUDIO_TOKENS["audio_bos_token"]),
        audio_end_token_id=token_id(tokenizer, AUDIO_TOKENS["audio_eos_token"]),
        tie_word_embeddings=True,
        **tokens,
    )
    ears = WhisperFeatureExtractor(feature_size=32)  # type: ignore[no-untyped-call]
    return build(Thinker, config, seed), qwen_processor(Qwen2_5OmniProcessor, size, tokenizer, feature_extractor=ears)


def _ears(size: Sizes) -> dict[str, Any]:
    width = size.vision_hidden
    layers = {"encoder_layers": 1, "encoder_attention_heads": size.heads, "encoder_ffn_dim": 4 * width}
    return layers | {"d_model": width, "num_mel_bins": 32, "output_dim": size.hidden}
