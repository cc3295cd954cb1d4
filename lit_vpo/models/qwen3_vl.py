"""Qwen3-VL: features for several layers of the language model, and timestamps in words between the frames."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lit_vpo.models.qwen2_vl import Qwen2VL, qwen_frames, qwen_language_model, qwen_tokens, qwen_tower
from lit_vpo.models.registry import register
from lit_vpo.models.tiny import Sizes, build, tiny_model
from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@register
class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration`.

    A video's features are (num_tokens, 1 + layers, hidden): the embeddings, then what the first layers of the language
    model add to their states at the same places (DeepStack, arXiv 2406.04334).
    """

    name: ClassVar[str] = "qwen3_vl"
    model_type: ClassVar[str] = "qwen3_vl"
    projector: ClassVar[tuple[str, ...]] = ("model.visual.merger", "model.visual.deepstack_merger_list")

    @override
    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import Qwen3VLForConditionalGeneration

        return Qwen3VLForConditionalGeneration

    @override
    def encode(self, net: Any, media: dict[str, Tensor]) -> list[Tensor]:
        output = net.model.get_video_features(media["pixel_values_videos"], media["video_grid_thw"], return_dict=True)
        layers = (output.pooler_output, *output.deepstack_features)
        return [torch.stack(video, 1) for video in zip(*layers, strict=True)]

    @override
    def tower_output(self, rows: list[Tensor]) -> Any:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        pooled, *layers = zip(*(row.unbind(1) for row in rows), strict=True)
        return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=layers)  # type: ignore[arg-type]


@tiny_model
def tiny_qwen3_vl(
    seed: int = 0, tokenizer: "PreTrainedTokenizerFast | None" = None, **sizes: int
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small Qwen3-VL: full attention in the tower, all layers but its last feed the language model, M-RoPE.

    Two frames of at most `image_size` ** 2 pixels become up to (image_size / patch_size / 2) ** 2 visual tokens.

    Args:
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.
        sizes: See `Sizes`.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    size = Sizes(**sizes)
    size.check_frame(2 * size.patch_size)
    tokenizer = tokenizer or load_tokenizer()
    config = Qwen3VLConfig(
        vision_config={
            **size.tower(),
            **qwen_tower(size),
            "out_hidden_size": size.hidden,
            "num_position_embeddings": (size.image_size // size.patch_size) ** 2,
            "deepstack_visual_indexes": list(range(size.vision_layers - 1)),
        },
        text_config=qwen_language_model(size, tokenizer) | {"head_dim": size.hidden // size.heads},
        **qwen_tokens(tokenizer),
        tie_word_embeddings=True,
    )
    return build(Qwen3VLForConditionalGeneration, config, seed), _processor(size, tokenizer)


def _processor(size: Sizes, tokenizer: Any) -> "ProcessorMixin":
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    unit = (2 * size.patch_size) ** 2
    # its sizes are of whole videos; the cap is what bounds a frame
    whole = {"size": {"shortest_edge": unit, "longest_edge": 1024 * size.image_size**2}}
    cap = {"cap_pixels_per_frame": True, "max_video_tokens": size.image_size**2 // unit}
    return Qwen3VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessor(**qwen_frames(size)),
        video_processor=Qwen3VLVideoProcessor(**qwen_frames(size) | whole | cap),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
