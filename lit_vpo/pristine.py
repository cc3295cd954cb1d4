"""The weights that a base came with: read from its files when they are needed, or copied where no file holds them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

Place = tuple[Path, str]  # file, name of the tensor in it


class PristineWeights:
    """W_0 of some layers, one at a time.

    A weight is found in the base's safetensors by its name or the end of it (checkpoints were renamed over the years),
    and taken only if it equals what the network holds now. Files are mapped into memory, so all ranks of a node share
    one copy. A weight that no file holds (models built in memory, adapters merged at the start) is copied to the host.

    Args:
        weights: Layer -> its weight in the network, before anything was merged into it.
        folder: Of the base's files; None copies everything.
    """

    def __init__(self, weights: Mapping[str, Tensor], folder: Path | None) -> None:
        index = {} if folder is None else _index(folder)
        self.places: dict[str, Place] = {}
        self.copies: dict[str, Tensor] = {}
        self.formats = {name: weight.dtype for name, weight in weights.items()}
        for name, weight in weights.items():
            place = _place(index, name, weight)
            if place is None:
                self.copies[name] = weight.detach().cpu().clone()
            else:
                self.places[name] = place

    def __call__(self, name: str) -> Tensor:
        """A layer's weight on the CPU, as the network held it: a file may hold it finer."""
        return self.copies[name] if name in self.copies else _read(self.places[name]).to(self.formats[name])


def _index(folder: Path) -> dict[str, list[Place]]:
    """Last part of a tensor's name but one (its layer) -> where tensors of such a layer lie."""
    index: dict[str, list[Place]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a mapping
                index.setdefault(_layer(key), []).append((path, key))
    return index


def _layer(name: str) -> str:
    return ".".join(name.split(".")[-4:])


def _place(index: dict[str, list[Place]], name: str, weight: Tensor) -> Place | None:
    tensor = f"{name}.weight"
    found: Iterable[Place] = index.get(_layer(tensor), ())
    for place in sorted(found, key=lambda place: place[1] != tensor):  # the very name first
        stored = _read(place)
        if stored.shape == weight.shape and torch.equal(stored.to(weight.dtype), weight.detach().cpu()):
            return place
    return None


def _read(place: Place) -> Tensor:
    path, key = place
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor
