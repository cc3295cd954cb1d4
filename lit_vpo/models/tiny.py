"""What the tiny builders share: real architectures so small that a CPU trains them, with tokenizer and processor.

Each family's file holds its builder, `tiny_<family>`; `lit_vpo.models.load_model` finds it by that name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

CLIP_MEAN, CLIP_STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]

Builder = TypeVar("Builder", bound="Callable[..., tuple[PreTrainedModel, ProcessorMixin]]")
TINY: "dict[str, Callable[..., tuple[PreTrainedModel, ProcessorMixin]]]" = {}


def tiny_model(builder: Builder) -> Builder:
    """Add a builder under its own name, which must be `tiny_` and the name of a family; a decorator."""
    TINY[builder.__name__] = builder
    return builder


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tiny network.

    Attributes:
        image_size: Side of a frame in pixels.
        patch_size: Side of a patch in pixels.
        vision_hidden: Width of the tower.
        vision_layers: Depth of the tower.
        hidden: Width of the language model.
        layers: Depth of the language model.
        heads: Attention heads of both.
    """

    image_size: int = 60
    patch_size: int = 10
    vision_hidden: int = 128
    vision_layers: int = 3
    hidden: int = 144
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        for name, width in (("vision_hidden", self.vision_hidden), ("hidden", self.hidden)):
            if width % (4 * self.heads):
                raise ValueError(f"{name} must be a multiple of 4 * heads = {4 * self.heads}, got {width}")

    def check_frame(self, unit: int) -> None:
        """Refuse frames that are no whole number of units.

        Args:
            unit: Side of the smallest square of pixels that the network takes.

        Raises:
            ValueError: If they are not.
        """
        if self.image_size % unit:
            raise ValueError(f"image_size must be a multiple of {unit}, got {self.image_size}")

    def tower(self) -> dict[str, Any]:
        """Settings of a vision tower."""
        width = self.vision_hidden
        return {"hidden_size": width, "intermediate_size": 4 * width, "hidden_act": "gelu_pytorch_tanh"}

    def language_model(self, tokenizer: Any) -> dict[str, Any]:
        """Settings of a language model: full attention, tied embeddings, no dropout."""
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden,
            "intermediate_size": 8 * self.hidden // 3 // 16 * 16,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": 4096,
            "attention_dropout": 0.0,
            # Hugging Face's 0.02 belongs to widths of thousands; at these widths it leaves the layers silent for long
            "initializer_range": self.hidden**-0.5,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }


def token_id(tokenizer: Any, token: str) -> int:
    """Number of a token."""
    return int(tokenizer.convert_tokens_to_ids(token))


def build(model_class: Any, config: Any, seed: int) -> Any:
    """A network with the initial weights of a seed, in eval mode."""
    # transformers draws initial weights from the global generator: lend it this seed, then give it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).eval()
