"""The retired adapters of earlier rounds, and the weights that they make of the base.

    W_k = round(W_0 + sum_i a_i s B_i A_i)

The sum is taken in fp32 from the pristine weights and rounded once, so that k merges cost the rounding of one; merging
into the merged weights, as `merge_and_unload` does, would round k times. A checkpoint holds the ledger and never the
base; loading replays it. (S3 of video-SALMONN 2, arXiv 2410.06682, with s = alpha / r.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_vpo.lora import ADAPTER, lora_layers
from lit_vpo.models.loading import own_tensors, plain_name, tensors_hash
from lit_vpo.pristine import PristineWeights
from lit_vpo.sharding import full, split_like

Entry = dict[str, list[Any]]  # layer -> [A, B, a_i s]


class MergeError(NamedTuple):
    """What rounding to the base's number format changed in a merge."""

    largest: float  # |W_k - exact|
    relative: float  # norm of the difference over the norm of the update


class Ledger:
    """Retired adapters, oldest first.

    Args:
        pristine: W_0 of the layers that carry adapters.
    """

    def __init__(self, pristine: PristineWeights) -> None:
        self.pristine = pristine
        self.entries: list[Entry] = []

    @torch.no_grad()
    def retire(self, net: nn.Module, weight: float = 1.0) -> MergeError:
        """Enter the live adapter and merge; its own matrices stay as they are.

        Args:
            net: A `PeftModel`.
            weight: a, the share of the adapter that is merged.
        """
        self.entries.append(live_entry(net, weight))
        return self.apply(net)

    @torch.no_grad()
    def apply(self, net: nn.Module) -> MergeError:
        """Write W_k into a network, whatever merged weights it holds; in place, no parameter is replaced.

        Args:
            net: A `PeftModel`, or the plain network.
        """
        largest, difference, update = 0.0, 0.0, 0.0
        for name, weight in merge_targets(net, self.names()).items():
            pristine = self.pristine(name).to(weight.device, torch.float32)
            exact = pristine + _update(self.entries, name, weight)
            weight.copy_(split_like(exact, weight))
            error = exact.to(weight.dtype).float() - exact
            largest = max(largest, float(error.abs().max()))
            difference += float(error.double().square().sum())
            update += float((exact - pristine).double().square().sum())
        return MergeError(largest, (difference / update) ** 0.5 if update else 0.0)

    @contextmanager
    def undone(self, net: nn.Module) -> Iterator[None]:
        """A network holds W_0 inside this context and W_k after it, bit for bit: the same sum is taken again.

        Args:
            net: As in `apply`.
        """
        entries = self.entries
        if not entries:  # W_k is W_0
            yield
            return
        try:
            self.entries = []
            self.apply(net)
            yield
        finally:
            self.entries = entries
            self.apply(net)

    def names(self) -> list[str]:
        """Layers that were merged into, or will be."""
        return sorted({*self.pristine.places, *self.pristine.copies})

    def state(self) -> list[Entry]:
        """For a checkpoint: lists, tensors and numbers."""
        return self.entries

    def load(self, state: list[Entry]) -> None:
        """Take over the entries of a checkpoint; `apply` merges them.

        Raises:
            ValueError: If they are of other layers.
        """
        unknown = sorted({name for entry in state for name in entry} - set(self.names()))
        if unknown:
            raise ValueError(f"the ledger has adapters of layers that this base has not: {', '.join(unknown[:5])}")
        self.entries = [dict(entry) for entry in state]


@torch.no_grad()
def live_entry(net: nn.Module, weight: float = 1.0) -> Entry:
    """The adapter under training, copied to the host.

    Args:
        net: A `PeftModel`.
        weight: a, the share of it that counts.
    """
    entry: Entry = {}
    for name, layer in lora_layers(net):
        matrices = (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
        entry[plain_name(name)] = [*(full(m).cpu().clone() for m in matrices), weight * layer.scaling[ADAPTER]]
    return entry


@torch.no_grad()
def policy_hash(net: nn.Module, ledger: Ledger | None = None) -> str:
    """Content hash of the plain network that a policy is, as `weights_hash` of that network.

    It is the same whether the adapters are live, retired to a ledger, or merged where a run begins (`init_from`).

    Args:
        net: A `PeftModel`, or a plain network.
        ledger: Of a policy in rounds.
    """
    entries = [*(ledger.entries if ledger else []), live_entry(net)]

    def merged(name: str, weight: Tensor) -> Tensor:
        layer = name.removesuffix(".weight")
        if layer not in entries[-1]:
            return weight
        own = full(weight).cpu() if ledger is None else ledger.pristine(layer)
        return (own.float() + _update(entries, layer, own)).to(weight.dtype)

    return tensors_hash((name, merged(name, t)) for name, t in own_tensors(net) if ".lora_" not in name)


@torch.no_grad()
def fold(net: nn.Module, entries: list[Entry]) -> None:
    """Merge adapters into a network whose weights are pristine, in place: nothing needs a copy of them.

    Args:
        net: A plain network.
        entries: Of layers that it has.
    """
    names = sorted({name for entry in entries for name in entry})
    targets = merge_targets(net, names)
    assert names == sorted(targets)
    for name, weight in targets.items():
        weight.copy_(weight.float() + _update(entries, name, weight))


def _update(entries: list[Entry], name: str, weight: Tensor) -> Tensor:
    """The sum of a layer's adapters in fp32, in the shape and place of its weight."""
    total = torch.zeros(weight.shape, device=weight.device)
    for entry in entries:
        if name in entry:
            a, b, scale = entry[name]
            total += scale * (b.to(weight.device).float() @ a.to(weight.device).float())
    return total


def merge_targets(net: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """The base weights of layers, by plain name, in a `PeftModel` or in the network that it wraps.

    Raises:
        ValueError: If a weight is quantised: a merge would have to round it to a few levels.
    """
    wanted = set(names)
    weights = {}
    for name, module in net.named_modules():
        own = plain_name(name)
        if own in wanted and own not in weights:
            base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
            weights[own] = base.weight
    quantised = [name for name, weight in weights.items() if not weight.is_floating_point()]
    if quantised:
        raise ValueError(
            f"adapters cannot be merged into the quantised layers {', '.join(quantised[:3])}; load the base "
            "unquantised, or use reference: second_adapter with ReferenceRefresh"
        )
    return weights


def new_ledger(net: nn.Module, folder: Path | None) -> Ledger:
    """An empty ledger for a network whose adapter was added just now.

    Args:
        net: A `PeftModel`, nothing merged yet.
        folder: Of the base's files, see `PristineWeights`.
    """
    names = [plain_name(name) for name, _ in lora_layers(net)]
    return Ledger(PristineWeights(merge_targets(net, names), folder))
