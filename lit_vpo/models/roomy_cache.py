"""Keys and values of prompts with room for the answers, so that no step of generation copies what is known.

`DynamicLayer.update` concatenates: each new token copies the whole prompt, for every candidate. With thousands of
visual tokens that is a third of a step.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer
from typing_extensions import override


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers does not annotate it
    """One layer's keys and values, each a view on a buffer that new tokens are written into.

    Args:
        known: The layer after the prompts were read.
        repeats: Rows for each of its rows.
        room: Tokens that may follow.
    """

    def __init__(self, known: DynamicLayer, repeats: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert known.keys is not None and known.values is not None
        self.buffers = [_with_room(states, repeats, room) for states in (known.keys, known.values)]
        self.dtype, self.device, self.is_initialized = known.dtype, known.device, True
        self._show(known.keys.shape[2])

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._show(end)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)
        return self.keys, self.values


def give_room(cache: Any, repeats: int, room: int) -> None:
    """Repeat every row of a cache, in place, and leave room behind it.

    Args:
        cache: A `transformers.Cache` of R prompts; layers of other kinds than the ordinary one are only repeated.
        repeats: Rows for each prompt.
        room: Tokens that may follow.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = RoomyLayer(layer, repeats, room)
        elif repeats > 1:
            layer.batch_repeat_interleave(repeats)


def _with_room(states: Tensor, repeats: int, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    buffer = states.new_empty(rows * repeats, heads, length + room, width)
    buffer.view(rows, repeats, heads, length + room, width)[..., :length, :] = states[:, None]
    return buffer
