"""Videos through a frozen tower once for all epochs and rounds: what the projector reads is kept on disk.

The tower's code is not written again. A first pass records what each part of the projector is given; later passes run
the same forward with the tower's layers skipped and hand the recorded states in their place, so that all that a family
does between tower and language model (window order, pooling, newline tokens) stays Hugging Face's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lit_vpo.models.loading import weights_hash
from lit_vpo.models.registry import Family
from lit_vpo.store import TensorStore


class FeatureCache:
    """Encodes videos, each by its tower only the first time.

    Args:
        net: A plain network whose tower stays as it is.
        family: Its family.
        folder: Of the cache; runs with the same tower share it.
        limit_gb: Bound on the folder in GB.
        number_format: What the tower computes in; other formats give other states.

    Raises:
        ValueError: From `TensorStore`.
    """

    def __init__(self, net: Any, family: Family, folder: str, limit_gb: float, number_format: str) -> None:
        self.family = family
        self.store = TensorStore(folder, f"{tower_hash(net, family)[:16]}-{number_format}", limit_gb)

    def encode(self, net: Any, media: dict[str, Tensor], keys: Sequence[str]) -> list[Tensor]:
        """As `Family.encode`, one video after the other.

        Args:
            net: The network.
            media: The processor's tensors of V videos.
            keys: V keys of their contents.
        """
        pairs = ((self.family.media_of(media, index), key) for index, key in enumerate(keys))
        return [self._encode_one(net, own, key) for own, key in pairs]

    def _encode_one(self, net: Any, media: dict[str, Tensor], key: str) -> Tensor:
        states = self.store.get(key)
        if states is not None:
            with replayed(net, self.family, states):
                return self.family.encode(net, media)[0]
        with recorded(net, self.family) as states:
            features = self.family.encode(net, media)[0]
        self.store.put(key, states)
        return features


def tower_hash(net: Any, family: Family) -> str:
    """Content hash of the tower without what of the projector lies inside it."""
    tower = net.get_submodule(family.vision)
    inside = tuple(
        name.removeprefix(family.vision + ".") for name in family.projector if name.startswith(family.vision)
    )
    names = {name for name, _ in tower.named_parameters() if name.startswith(inside)} if inside else set()
    return weights_hash(tower, without=names)


@contextmanager
def recorded(net: Any, family: Family) -> Iterator[dict[str, Tensor]]:
    """What every part of the projector is given inside this context, by the part's name."""
    states: dict[str, Tensor] = {}
    hooks = []
    for name, part in _parts(net, family):

        def keep(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
            assert name not in states, f"{name} ran twice for one video"
            states[name] = inputs[0].detach().clone()

        hooks.append(part.register_forward_pre_hook(keep))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replayed(net: Any, family: Family, states: dict[str, Tensor]) -> Iterator[None]:
    """The tower's layers do nothing inside this context, and the projector is given what was recorded."""
    hooks = []
    for name, part in _parts(net, family):

        def give(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> tuple[Any, ...]:
            return (states[name].to(inputs[0].device), *inputs[1:])

        hooks.append(part.register_forward_pre_hook(give))
    layers = list(_layers(net, family))
    for layer in layers:
        layer.forward = _same
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
        for hook in hooks:
            hook.remove()


def _same(states: Tensor, *_: Any, **__: Any) -> Tensor:
    return states


def _parts(net: Any, family: Family) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the projector that hold weights; of a list, each of its modules."""
    named = dict(net.named_modules())
    for prefix in family.projector:
        part = named.get(prefix)  # a bare parameter reads nothing
        parts = enumerate(part) if isinstance(part, nn.ModuleList) else [(0, part)]
        for number, module in parts:
            if module is not None and any(True for _ in module.parameters()):
                yield f"{prefix}.{number}", module


def _layers(net: Any, family: Family) -> Iterator[nn.Module]:
    """Layers of the tower: the lists of modules inside it, but for the projector's."""
    for name, module in net.get_submodule(family.vision).named_modules(prefix=family.vision):
        if isinstance(module, nn.ModuleList) and not name.startswith(family.projector):
            yield from module
