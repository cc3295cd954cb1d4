"""Qwen2-VL: videos of any size, a merger inside the tower, positions in three dimensions; what its successors share."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lit_vpo.models.registry import Family, register, rows_of
from lit_vpo.models.tiny import CLIP_MEAN, CLIP_STD, Sizes, build, tiny_model, token_id
from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@register
class Qwen2VL(Family):
    """`Qwen2VLForConditionalGeneration`.

    Positions need `mm_token_type_ids` and the values of `per_video` for each row; without the former transformers falls
    back to one-dimensional positions, so the batch must carry it.

    Attributes:
        per_video: What positions depend on, per video, under the names of the network's forward.
    """

    name: ClassVar[str] = "qwen2_vl"
    model_type: ClassVar[str] = "qwen2_vl"
    vision: ClassVar[str] = "model.visual"
    projector: ClassVar[tuple[str, ...]] = ("model.visual.merger",)
    needs_token_types: ClassVar[bool] = True
    per_video: ClassVar[tuple[str, ...]] = ("video_grid_thw",)

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import Qwen2VLForConditionalGeneration

        return Qwen2VLForConditionalGeneration

    @override
    def encode(self, net: Any, media: dict[str, Tensor]) -> list[Tensor]:
        output = net.model.get_video_features(media["pixel_values_videos"], media["video_grid_thw"], return_dict=True)
        return list(output.pooler_output)

    @override
    def media_of(self, media: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        pixels = torch.split(media["pixel_values_videos"], media["video_grid_thw"].prod(1).tolist())[index]
        return super().media_of(media, index) | {"pixel_values_videos": pixels}

    @override
    def video_kwargs(self, features: list[Tensor], video_index: Tensor, media: dict[str, Tensor]) -> dict[str, Any]:
        encoded = self.tower_output([features[i] for i in video_index.tolist()])
        per_row = {name: rows_of(media[name], video_index) for name in self.per_video}
        return {"mm_encoder_outputs": {"video": encoded}} | per_row

    def tower_output(self, rows: list[Tensor]) -> Any:
        """What `get_video_features` would return for the videos of rows."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        # forward() concatenates a tuple with one (num_tokens, hidden) per row
        pooled: Any = tuple(rows)
        return BaseModelOutputWithPooling(pooler_output=pooled)

    @override
    def position_ids(self, net: Any, rows: dict[str, Any]) -> Tensor:
        names = ("input_ids", "mm_token_type_ids", "attention_mask", *self.per_video)
        positions, _ = net.model.get_rope_index(**{name: rows.get(name) for name in names})
        return positions  # type: ignore[no-any-return]


@tiny_model
def tiny_qwen2_vl(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small Qwen2-VL: full attention in the tower, 2 x 2 merger, M-RoPE.

    Two frames of about `image_size` ** 2 pixels become (image_size / patch_size / 2) ** 2 visual tokens.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    size = Sizes(**sizes)
    size.check_frame(2 * size.patch_size)
    tokenizer = tokenizer or load_tokenizer()
    config = Qwen2VLConfig(
        vision_config={
            **qwen_tower(size),
            "embed_dim": size.vision_hidden,
            "hidden_size": size.hidden,  # the merger's; the tower's own width is embed_dim
        },
        text_config=qwen_language_model(size, tokenizer),
        **qwen_tokens(tokenizer),
        tie_word_embeddings=True,
    )
    net = build(Qwen2VLForConditionalGeneration, config, seed)
    return net, qwen_processor(Qwen2VLProcessor, size, tokenizer)


def qwen_tower(size: Sizes) -> dict[str, Any]:
    """Settings of a tower that merges 2 x 2 patches of two frames."""
    patches = {"patch_size": size.patch_size, "spatial_merge_size": 2, "temporal_patch_size": 2}
    return {"depth": size.vision_layers, "num_heads": size.heads} | patches


def qwen_language_model(size: Sizes, tokenizer: Any) -> dict[str, Any]:
    """Settings of a language model with positions in three dimensions."""
    half = size.hidden // size.heads // 2  # M-RoPE shares the half head between time, height and width
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    return size.language_model(tokenizer) | {"rope_parameters": rope}


def qwen_tokens(tokenizer: Any) -> dict[str, Any]:
    """Numbers of the media tokens, as the configuration names them."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: token_id(tokenizer, token) for name, token in names.items()}


def qwen_frames(size: Sizes) -> dict[str, Any]:
    """Settings of a processor that resizes a frame to about `image_size` ** 2 pixels."""
    area = size.image_size**2
    patches: dict[str, Any] = {"patch_size": size.patch_size, "temporal_patch_size": 2, "merge_size": 2}
    return patches | {
        "size": {"shortest_edge": area, "longest_edge": area},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }


def qwen_processor(processor_class: Any, size: Sizes, tokenizer: Any, **more: Any) -> "ProcessorMixin":
    """A processor of one of the families that use Qwen2-VL's image and video processors."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    processor: ProcessorMixin = processor_class(
        image_processor=Qwen2VLImageProcessor(**qwen_frames(size)),
        # the cap's default changes with the transformers release; False is what a small fixed area needs
        video_processor=Qwen2VLVideoProcessor(**qwen_frames(size), cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        **more,
    )
    return processor
