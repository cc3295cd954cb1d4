"""Video-LLaVA: a CLIP tower of its own for videos, every patch and the class token of every frame."""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from typing_extensions import override

from lit_vpo.models.llava_onevision import LlavaOnevision
from lit_vpo.models.registry import register
from lit_vpo.models.tiny import CLIP_MEAN, CLIP_STD, Sizes, build, tiny_model, token_id
from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@register
class VideoLlava(LlavaOnevision):
    """`VideoLlavaForConditionalGeneration`; the released model knows videos of 8 frames (`num_frames: 8`) alone."""

    name: ClassVar[str] = "video_llava"
    model_type: ClassVar[str] = "video_llava"
    vision: ClassVar[str] = "model.video_tower"
    projector: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector",)

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import VideoLlavaForConditionalGeneration

        return VideoLlavaForConditionalGeneration

    @override
    def encode(self, net: Any, media: dict[str, Tensor]) -> list[Tensor]:
        pixels = media["pixel_values_videos"].to(net.dtype)  # (V, frames, 3, H, W)
        frames: Tensor = net.model.get_video_features(pixels, return_dict=True).pooler_output  # (V * frames, N, hidden)
        return list(frames.reshape(len(pixels), -1, frames.shape[-1]).unbind())


@tiny_model
def tiny_video_llava(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small Video-LLaVA: two CLIP towers of which videos use one, Llama language model, tied embeddings.

    A frame becomes (image_size / patch_size) ** 2 + 1 visual tokens; frames may be of any number.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

    size = Sizes(**{"patch_size": 20} | sizes)
    size.check_frame(size.patch_size)
    tokenizer = tokenizer or load_tokenizer()
    config = VideoLlavaConfig(
        vision_config=clip_tower(size),
        text_config={"model_type": "llama", **size.language_model(tokenizer)},
        image_token_index=token_id(tokenizer, "<|image_pad|>"),
        video_token_index=token_id(tokenizer, "<|video_pad|>"),
        tie_word_embeddings=True,
    )
    return build(VideoLlavaForConditionalGeneration, config, seed), _processor(size, tokenizer)


def clip_tower(size: Sizes) -> dict[str, Any]:
    """Settings of a CLIP tower."""
    return {
        "model_type": "clip_vision_model",
        "image_size": size.image_size,
        "patch_size": size.patch_size,
        **size.tower(),
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.heads,
    }


def clip_frames(size: Sizes) -> dict[str, Any]:
    """Settings of a processor that cuts squares from frames, as CLIP's does."""
    side = size.image_size
    crop = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return crop | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}


def _processor(size: Sizes, tokenizer: Any) -> "ProcessorMixin":
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    return VideoLlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=VideoLlavaImageProcessor(**clip_frames(size)),
        video_processor=VideoLlavaVideoProcessor(**clip_frames(size)),
        tokenizer=tokenizer,
        patch_size=size.patch_size,
        chat_template=tokenizer.chat_template,
    )
