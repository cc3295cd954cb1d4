"""LLaVA-NeXT-Video: CLIP tower, frames pooled 2 x 2 by its resampler, MLP projector."""

from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from lit_vpo.models.llava_onevision import LlavaOnevision
from lit_vpo.models.registry import register
from lit_vpo.models.tiny import Sizes, build, tiny_model, token_id
from lit_vpo.models.tokenizer import load_tokenizer
from lit_vpo.models.video_llava import clip_frames, clip_tower

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@register
class LlavaNextVideo(LlavaOnevision):
    """`LlavaNextVideoForConditionalGeneration`; videos take neither newline tokens nor a grid of crops."""

    name: ClassVar[str] = "llava_next_video"
    model_type: ClassVar[str] = "llava_next_video"
    projector: ClassVar[tuple[str, ...]] = ("model.vision_resampler", "model.multi_modal_projector")

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import LlavaNextVideoForConditionalGeneration

        return LlavaNextVideoForConditionalGeneration


@tiny_model
def tiny_llava_next_video(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small LLaVA-NeXT-Video: CLIP tower, Llama language model, tied embeddings, no dropout.

    A frame becomes (image_size / patch_size / 2) ** 2 visual tokens.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    size = Sizes(**sizes)
    size.check_frame(2 * size.patch_size)
    tokenizer = tokenizer or load_tokenizer()
    config = LlavaNextVideoConfig(
        vision_config=clip_tower(size),
        text_config={"model_type": "llama", **size.language_model(tokenizer)},
        image_token_index=token_id(tokenizer, "<|image_pad|>"),
        video_token_index=token_id(tokenizer, "<|video_pad|>"),
        image_grid_pinpoints=[[size.image_size, size.image_size]],
        tie_word_embeddings=True,
    )
    return build(LlavaNextVideoForConditionalGeneration, config, seed), _processor(size, tokenizer)


def _processor(size: Sizes, tokenizer: Any) -> "ProcessorMixin":
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    return LlavaNextVideoProcessor(  # type: ignore[no-untyped-call]
        image_processor=LlavaNextImageProcessor(
            image_grid_pinpoints=[[size.image_size, size.image_size]], **clip_frames(size)
        ),
        video_processor=LlavaNextVideoVideoProcessor(**clip_frames(size)),
        tokenizer=tokenizer,
        patch_size=size.patch_size,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
    )
