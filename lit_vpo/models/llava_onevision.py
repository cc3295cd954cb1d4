"""LLaVA-OneVision: SigLIP tower, MLP projector, frames pooled 2 x 2, one newline token per video."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lit_vpo.models.registry import Family, register

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
