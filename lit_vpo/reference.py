"""The reference lives in the policy's network: the same weights with the adapter switched off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def adapter_off(net: Any) -> Iterator[None]:
    """The network is the reference inside this context, without gradients, and the policy again after it.

    `disable_adapter` flips `requires_grad` of the adapter while it lasts; a flag that stayed flipped would stop
    training in silence, so flags and the active adapter are compared on exit.

    Args:
        net: A `PeftModel`.
    """
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    active = list(net.active_adapters)
    with torch.no_grad(), net.disable_adapter():
        yield
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags, (
        "requires_grad changed in the reference"
    )
    assert list(net.active_adapters) == active, "the active adapter changed in the reference"
