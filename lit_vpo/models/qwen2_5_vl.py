"""Qwen2.5-VL: window-attention tower with its merger inside, videos of any size, positions in three dimensions."""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from typing_extensions import override

from lit_vpo.models.registry import Family, register, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register
class Qwen2_5_VL(Family):
    """`Qwen2_5_VLForConditionalGeneration`.

    Positions need `video_grid_thw`, `second_per_grid_ts` and `mm_token_type_ids` per row; without the last transformers
    falls back to one-dimensional positions and says nothing, so the batch must carry it.
    """

    name: ClassVar[str] = "qwen2_5_vl"
    model_type: ClassVar[str] = "qwen2_5_vl"
    vision: ClassVar[str] = "model.visual"
    projector: ClassVar[tuple[str, ...]] = ("model.visual.merger",)

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration

    @override
    def encode(self, net: Any, media: dict[str, Tensor]) -> list[Tensor]:
        output = net.model.get_video_features(media["pixel_values_videos"], media["video_grid_thw"], return_dict=True)
        return list(output.pooler_output)

    @override
    def video_kwargs(self, features: list[Tensor], video_index: Tensor, media: dict[str, Tensor]) -> dict[str, Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        # forward() concatenates a tuple with one (num_tokens, hidden) per row
        rows: Any = tuple(features[i] for i in video_index.tolist())
        return {
            "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=rows)},
            "video_grid_thw": rows_of(media["video_grid_thw"], video_index),
            "second_per_grid_ts": rows_of(media["second_per_grid_ts"], video_index),
        }

    @override
    def position_ids(self, net: Any, rows: dict[str, Any]) -> Tensor:
        names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        positions, _ = net.model.get_rope_index(**{name: rows.get(name) for name in names})
        return positions  # type: ignore[no-any-return]
