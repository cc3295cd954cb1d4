"""Qwen2.5-VL: window-attention tower with its merger inside, positions that follow the seconds of a video."""

from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from lit_vpo.models.qwen2_vl import Qwen2VL, qwen_language_model, qwen_processor, qwen_tokens, qwen_tower
from lit_vpo.models.registry import register
from lit_vpo.models.tiny import Sizes, build, tiny_model
from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@register
class Qwen2_5_VL(Qwen2VL):
    """`Qwen2_5_VLForConditionalGeneration`."""

    name: ClassVar[str] = "qwen2_5_vl"
    model_type: ClassVar[str] = "qwen2_5_vl"
    per_video: ClassVar[tuple[str, ...]] = ("video_grid_thw", "second_per_grid_ts")

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration


@tiny_model
def tiny_qwen2_5_vl(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small Qwen2.5-VL: window attention (a window per frame) with one full layer, 2 x 2 merger, M-RoPE.

    Two frames of about `image_size` ** 2 pixels become (image_size / patch_size / 2) ** 2 visual tokens.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    size = Sizes(**sizes)
    size.check_frame(2 * size.patch_size)
    tokenizer = tokenizer or load_tokenizer()
    config = Qwen2_5_VLConfig(
        vision_config=window_tower(size) | {"tokens_per_second": 2},
        text_config=qwen_language_model(size, tokenizer),
        **qwen_tokens(tokenizer),
        tie_word_embeddings=True,
    )
    net = build(Qwen2_5_VLForConditionalGeneration, config, seed)
    return net, qwen_processor(Qwen2_5_VLProcessor, size, tokenizer)


def window_tower(size: Sizes) -> dict[str, Any]:
    """Settings of a tower whose windows are frames; its last layer attends over the whole video."""
    windows = {"window_size": size.image_size, "fullatt_block_indexes": [size.vision_layers - 1]}
    return size.tower() | qwen_tower(size) | windows | {"out_hidden_size": size.hidden}
