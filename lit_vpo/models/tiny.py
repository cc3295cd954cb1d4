"""Real architectures, small: networks of both families that a CPU trains, with their own tokenizer and processor."""

from typing import TYPE_CHECKING, Any

import torch

from lit_vpo.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

CLIP_MEAN, CLIP_STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


def tiny_llava_onevision(
    image_size: int = 60,
    patch_size: int = 10,
    vision_hidden: int = 128,
    vision_layers: int = 3,
    hidden: int = 144,
    layers: int = 4,
    heads: int = 4,
    seed: int = 0,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small LLaVA-OneVision: SigLIP tower without head, Qwen2 language model, tied embeddings, no dropout.

    A frame becomes ceil(image_size / patch_size / 2) ** 2 visual tokens, a video one more.

    Args:
        image_size: Side of a frame in pixels, a multiple of `patch_size`.
        patch_size: Side of a patch in pixels.
        vision_hidden: Width of the tower.
        vision_layers: Depth of the tower.
        hidden: Width of the language model.
        layers: Depth of the language model.
        heads: Attention heads of both.
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    _check_sizes(image_size, patch_size, vision_hidden, hidden, heads)
    tokenizer = tokenizer or load_tokenizer()
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": image_size,
            "patch_size": patch_size,
            "vision_use_head": False,
            **_tower(vision_hidden),
            "num_hidden_layers": vision_layers,
            "num_attention_heads": heads,
        },
        text_config={"model_type": "qwen2", **_language_model(hidden, layers, heads, tokenizer)},
        image_token_index=_id(tokenizer, "<|image_pad|>"),
        video_token_index=_id(tokenizer, "<|video_pad|>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[image_size, image_size]],
        tie_word_embeddings=True,
    )
    net = _build(LlavaOnevisionForConditionalGeneration, config, seed)
    return net, _llava_processor(image_size, patch_size, tokenizer)


def tiny_qwen2_5_vl(
    image_size: int = 60,
    patch_size: int = 10,
    vision_hidden: int = 128,
    vision_layers: int = 3,
    hidden: int = 144,
    layers: int = 4,
    heads: int = 4,
    seed: int = 0,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A small Qwen2.5-VL: window attention (a window per frame) with one full layer, 2 x 2 merger, M-RoPE.

    Two frames of about `image_size` ** 2 pixels become (image_size / patch_size / 2) ** 2 visual tokens.

    Args:
        image_size: A frame is resized to about `image_size` ** 2 pixels; a multiple of 2 * `patch_size`.
        patch_size: Side of a patch in pixels.
        vision_hidden: Width of the tower.
        vision_layers: Depth of the tower; its last layer attends over the whole frame.
        hidden: Width of the language model.
        layers: Depth of the language model.
        heads: Attention heads of both.
        seed: Of the weights.
        tokenizer: In place of the one that ships with the package.

    Raises:
        ValueError: If sizes do not divide.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    _check_sizes(image_size, 2 * patch_size, vision_hidden, hidden, heads)
    tokenizer = tokenizer or load_tokenizer()
    half = hidden // heads // 2  # M-RoPE shares the half head between time, height and width
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    text = _language_model(hidden, layers, heads, tokenizer)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    config = Qwen2_5_VLConfig(
        vision_config={
            **_tower(vision_hidden),
            "depth": vision_layers,
            "num_heads": heads,
            "out_hidden_size": hidden,
            "patch_size": patch_size,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": image_size,
            "fullatt_block_indexes": [vision_layers - 1],
            "tokens_per_second": 2,
        },
        text_config=text,
        image_token_id=_id(tokenizer, "<|image_pad|>"),
        video_token_id=_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )
    net = _build(Qwen2_5_VLForConditionalGeneration, config, seed)
    return net, _qwen_processor(image_size, patch_size, tokenizer)


TINY = {"tiny_llava_onevision": tiny_llava_onevision, "tiny_qwen2_5_vl": tiny_qwen2_5_vl}


def _check_sizes(image_size: int, unit: int, vision_hidden: int, hidden: int, heads: int) -> None:
    if image_size % unit:
        raise ValueError(f"image_size must be a multiple of {unit}, got {image_size}")
    for name, width in (("vision_hidden", vision_hidden), ("hidden", hidden)):
        if width % (4 * heads):
            raise ValueError(f"{name} must be a multiple of 4 * heads = {4 * heads}, got {width}")


def _tower(hidden: int) -> dict[str, Any]:
    return {"hidden_size": hidden, "intermediate_size": 4 * hidden, "hidden_act": "gelu_pytorch_tanh"}


def _language_model(hidden: int, layers: int, heads: int, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 8 * hidden // 3 // 16 * 16,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "attention_dropout": 0.0,
        # Hugging Face's 0.02 belongs to widths of thousands; at these widths it leaves the layers silent for long
        "initializer_range": hidden**-0.5,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def _build(model_class: Any, config: Any, seed: int) -> Any:
    # transformers draws initial weights from the global generator: lend it this seed, then give it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).eval()


def _llava_processor(image_size: int, patch_size: int, tokenizer: Any) -> "ProcessorMixin":
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    size = {"height": image_size, "width": image_size}
    norm: dict[str, Any] = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    return LlavaOnevisionProcessor(  # type: ignore[no-untyped-call]
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[image_size, image_size]], **norm
        ),
        video_processor=LlavaOnevisionVideoProcessor(size=size, **norm),
        tokenizer=tokenizer,
        num_image_tokens=(image_size // patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )


def _qwen_processor(image_size: int, patch_size: int, tokenizer: Any) -> "ProcessorMixin":
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    area = image_size**2
    # the cap's default changes with the transformers release; False is what a small fixed area needs
    patches: dict[str, Any] = {"patch_size": patch_size, "temporal_patch_size": 2, "merge_size": 2}
    patches |= {"size": {"shortest_edge": area, "longest_edge": area}, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    return Qwen2_5_VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessor(**patches),
        video_processor=Qwen2VLVideoProcessor(**patches, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
