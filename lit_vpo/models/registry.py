"""Families of video LLMs: what differs between them, and nothing else.

A family of one's own is a subclass of `Family`, named by its dotted path (`family: my_package.MyFamily`) or registered
by `register` from one's own package.
"""

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Family(ABC):
    """One family of Hugging Face video LLMs.

    Attributes:
        name: Name in configurations.
        model_type: `model_type` of its `config.json`.
        language_model: Dotted prefix of the language model inside the network.
        head: Dotted prefix of the output head.
        vision: Dotted prefix of the vision tower.
        projector: Dotted prefixes of what lies between the two; they may lie inside `vision`.
        needs_token_types: Whether positions depend on `mm_token_type_ids`.
    """

    name: ClassVar[str]
    model_type: ClassVar[str]
    language_model: ClassVar[str] = "model.language_model"
    head: ClassVar[str] = "lm_head"
    vision: ClassVar[str]
    projector: ClassVar[tuple[str, ...]]
    needs_token_types: ClassVar[bool] = False

    @abstractmethod
    def model_class(self) -> "type[PreTrainedModel]":
        """The transformers class; imported here, so that naming a family stays cheap."""

    @abstractmethod
    def encode(self, net: Any, media: dict[str, Tensor]) -> list[Tensor]:
        """Run tower and projector once.

        Args:
            net: The network, without adapter wrapper.
            media: The processor's tensors of V videos.

        Returns:
            V tensors (num_tokens, hidden); (num_tokens, layers, hidden) where several layers of the language model
            read features of their own.
        """

    def media_of(self, media: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """The tensors of one video.

        Args:
            media: As in `encode`.
            index: Which of the V videos.
        """
        return {name: value[index : index + 1] for name, value in media.items()}

    @abstractmethod
    def video_kwargs(self, features: list[Tensor], video_index: Tensor, media: dict[str, Tensor]) -> dict[str, Any]:
        """What `forward` and `generate` take in place of pixels.

        Args:
            features: From `encode`.
            video_index: (R,) long, the video of each row.
            media: As in `encode`.
        """

    def hidden(self, net: Any, inputs: dict[str, Any]) -> Tensor:
        """States before the output head.

        Args:
            net: The network, without adapter wrapper (an adapter inside it works).
            inputs: Keyword arguments of its forward.

        Returns:
            (R, S, hidden)
        """
        return net.model(**inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def prefill(self, net: Any, inputs: dict[str, Any]) -> Any:
        """Keys and values of prompts, from which answers go on.

        Args:
            net: As in `hidden`.
            inputs: As in `hidden`.

        Returns:
            A `transformers.Cache` of R rows.
        """
        return net.model(**inputs, use_cache=True).past_key_values

    def position_ids(self, net: Any, rows: dict[str, Any]) -> Tensor:
        """Positions of ordinary rows, padded on either side.

        Args:
            net: The network, without adapter wrapper.
            rows: `input_ids` and `attention_mask` (R, S), and what `video_kwargs` gave for the rows.

        Returns:
            (R, S) long; (3, R, S) for families with positions in three dimensions.
        """
        return (rows["attention_mask"].cumsum(-1) - 1).clamp_min(0)  # type: ignore[no-any-return]


_FAMILIES: dict[str, Family] = {}


def register(family: type[Family]) -> type[Family]:
    """Add a family; usable as a class decorator. A second one of the same name takes the first one's place."""
    _FAMILIES[family.name] = family()
    return family


def families() -> dict[str, Family]:
    """All known families by name."""
    # those that ship are imported late: their modules are cheap, but importing them here at the top would be a circle
    from lit_vpo.models import (  # noqa: F401
        llava_next_video,
        llava_onevision,
        qwen2_5_omni,
        qwen2_5_vl,
        qwen2_vl,
        qwen3_vl,
        video_llava,
    )

    return _FAMILIES


def get_family(name: Any) -> Family:
    """Find a family.

    Args:
        name: A family's name, a `model_type`, the dotted path of a `Family` subclass, or an object with `model_type`.

    Raises:
        ValueError: If there is none; the message lists those that are known.
    """
    wanted = name if isinstance(name, str) else name.model_type
    known = families()
    for family in known.values():
        if wanted in (family.name, family.model_type):
            return family
    if "." in wanted:
        return _from_path(wanted)
    raise ValueError(
        f"unknown model family {wanted!r}; known: {', '.join(sorted(known))}. For one of your own give the dotted "
        "path of a lit_vpo.models.Family subclass as `family`"
    )


def _from_path(path: str) -> Family:
    module_name, _, class_name = path.rpartition(".")
    try:
        family = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import the model family {path!r}: {error}") from error
    if not (isinstance(family, type) and issubclass(family, Family)):
        raise ValueError(f"{path} is not a subclass of lit_vpo.models.Family")
    return _FAMILIES[register(family).name]


def video_token(config: Any) -> int:
    """The token that stands in the place of a video's features, under the name that the configuration gives it."""
    found = getattr(config, "video_token_id", None)
    return int(config.video_token_index if found is None else found)


def rows_of(values: Tensor, video_index: Tensor) -> Tensor:
    """Per-video values for each row: (V, ...) and (R,) give (R, ...)."""
    return torch.index_select(values, 0, video_index)
