"""Weights in shards (FSDP2): every rank keeps a part of each tensor. What is special about such tensors stands here.

Code elsewhere is written once for both: of plain tensors and networks these functions give what they were given.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")
ENTRY = "lit_vpo_entry"


def shard(net: Any, mesh: DeviceMesh) -> None:
    """Split a network's parameters over ranks, in place: each decoder layer is a unit, all the rest one more.

    FSDP gathers a unit's weights when its module's forward is called. The rest (tower, projector, embeddings, head) is
    used in parts, without the network's own forward, so `gathering` gathers it.

    Args:
        net: A plain network (an adapter inside it works), whole on every rank.
        mesh: The ranks, in one dimension.
    """
    for layer in net.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    setattr(net, ENTRY, _call)
    # kept whole after a forward, its parameters would not be those that the optimizer has, and a merge would be lost
    root = fully_shard(net, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(net, ENTRY)
    # a rank whose rows have no video must reduce the projector's gradients with the others
    root.set_reduce_scatter_unused_params(True)


def _call(function: Callable[[], T]) -> T:
    return function()


def gathering(net: Any, function: Callable[[], T]) -> T:
    """Call what uses parts of a network; a collective where it is sharded, so every rank must come here.

    Args:
        net: A plain network.
        function: Returns tensors, or tuples, lists and dicts of them.
    """
    return getattr(net, ENTRY)(function) if isinstance(net, FSDPModule) else function()


def full(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank, detached; a collective where it is sharded."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(whole: Tensor, target: Tensor) -> Tensor:
    """The shard of a whole tensor, equal on all ranks, that belongs to a target: `target.copy_(split_like(...))`.

    Args:
        whole: In the shape of the target, on any device.
        target: Whose ranks and device are taken.
    """
    if not isinstance(target, DTensor):
        return whole
    return distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def for_checkpoint(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors for a file; those that are sharded are gathered one by one, and kept by the rank that writes alone.

    Args:
        tensors: By name, with values that are none among them; the same on every rank.
    """
    whole = {}
    for name, value in tensors.items():
        if not isinstance(value, DTensor):
            whole[name] = value
            continue
        gathered = full(value)
        if torch.distributed.get_rank() == 0:
            whole[name] = gathered.cpu()
    return whole
