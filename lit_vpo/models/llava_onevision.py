"""LLaVA-OneVision: SigLIP tower, MLP projector, frames pooled 2 x 2, one newline token per video."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lit_vpo.models.registry import Family, register
from lit_vpo.models.tiny import CLIP_MEAN, CLIP_STD, Sizes, build, tiny_model, token_id
from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@register
class LlavaOnevision(Family):
    """`LlavaOnevisionForConditionalGeneration`."""

    name: ClassVar[str] = "llava_onevision"
    model_type: ClassVar[str] = "llava_onevision"
    vision: ClassVar[str] = "model.vision_tower"
    projector: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector", "model.image_newline")

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration

    @override
    def encode(self, net: Any, media: dict[str, Tensor]) -> list[Tensor]:
        pixels = media["pixel_values_videos"].to(net.dtype)  # (V, frames, 3, H, W)
        features: Tensor = net.model.get_video_features(pixels, return_dict=True).pooler_output
        return list(features.unbind())

    @override
    def video_kwargs(self, features: list[Tensor], video_index: Tensor, media: dict[str, Tensor]) -> dict[str, Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        # forward() flattens (rows, num_tokens, hidden) into the placeholders, row by row
        rows = torch.stack([features[i] for i in video_index.tolist()])
        return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=rows)}}


@tiny_model
def tiny_llava_onevision(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small LLaVA-OneVision: SigLIP tower without head, Qwen2 language model, tied embeddings, no dropout.

    A frame becomes ceil(image_size / patch_size / 2) ** 2 visual tokens, a video one more.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    size = Sizes(**sizes)
    size.check_frame(size.patch_size)
    tokenizer = tokenizer or load_tokenizer()
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "vision_use_head": False,
            **size.tower(),
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.heads,
        },
        text_config={"model_type": "qwen2", **size.language_model(tokenizer)},
        image_token_index=token_id(tokenizer, "<|image_pad|>"),
        video_token_index=token_id(tokenizer, "<|video_pad|>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[size.image_size, size.image_size]],
        tie_word_embeddings=True,
    )
    return build(LlavaOnevisionForConditionalGeneration, config, seed), _processor(size, tokenizer)


def _processor(size: Sizes, tokenizer: Any) -> "ProcessorMixin":
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    side = {"height": size.image_size, "width": size.image_size}
    norm: dict[str, Any] = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    return LlavaOnevisionProcessor(  # type: ignore[no-untyped-call]
        image_processor=LlavaOnevisionImageProcessor(
            size=side, image_grid_pinpoints=[[size.image_size, size.image_size]], **norm
        ),
        video_processor=LlavaOnevisionVideoProcessor(size=side, **norm),
        tokenizer=tokenizer,
        num_image_tokens=(size.image_size // size.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
