"""Where the reference's weights live: in the policy's network with its adapter off, in a second adapter, in a copy.

TRL keeps a second network; for an adapter none is needed. Which of the three it is stands in the configuration, and its
hash in the log and in every checkpoint: a wrong reference is the commonest silent fault of preference training.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import override

from lit_vpo.lora import ADAPTER, copy_adapter, lora_layers, plain, refuse_unrestorable
from lit_vpo.models import weights_hash
from lit_vpo.sharding import for_checkpoint, full, shard, split_like

ReferenceName = Literal["adapter_off", "second_adapter", "frozen_copy"]
SECOND = "reference"  # PEFT's name of the second adapter


class Reference(nn.Module, ABC):
    """A network like the policy's that does not learn.

    Attributes:
        name: Name in configurations.
        needs_adapter: Whether the policy must be an adapter on a frozen network.
        encodes: Whether videos must be encoded by it again, because its projector may differ from the policy's.
    """

    name: ClassVar[ReferenceName]
    needs_adapter: ClassVar[bool] = True
    encodes: bool = False

    def attach(self, net: Any) -> None:
        """Make what the reference needs: it starts as the policy stands now.

        Args:
            net: The policy's network, as it will be trained.

        Raises:
            ValueError: If the policy trains what this reference cannot restore.
        """
        refuse_unrestorable(net)

    def shard(self, mesh: DeviceMesh) -> None:
        """Split what it does not have from the policy's network over ranks.

        Args:
            mesh: See `lit_vpo.sharding.shard`.
        """

    @override
    def train(self, mode: bool = True) -> "Reference":
        """Stay in eval mode, whatever the module around it does."""
        return super().train(False)

    @abstractmethod
    def weights(self, net: Any) -> Any:
        """A context in which the network it gives is the reference, without gradients; the policy returns after it.

        Args:
            net: As in `attach`.
        """

    def refresh(self, net: Any, new_weight: float) -> None:
        """Move towards the policy: reference <- (1 - a) reference + a policy (TR-DPO, arXiv 2404.09656).

        Args:
            net: As in `attach`.
            new_weight: a in (0, 1]; 1 copies.

        Raises:
            ValueError: If this reference has no weights of its own to move.
        """
        raise ValueError(f"reference: {self.name} has no weights of its own; the ledger moves it")

    def state(self, net: Any) -> dict[str, Tensor]:
        """Tensors of its own that a checkpoint must hold beside the trained ones.

        Args:
            net: As in `attach`.
        """
        return {}

    def load_state(self, net: Any, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        assert not state

    @abstractmethod
    def hash(self, net: Any, frozen_hash: str) -> str:
        """Content hash of the reference's weights.

        Args:
            net: As in `attach`.
            frozen_hash: Of the network's weights that are not trained.
        """


class AdapterOff(Reference):
    """The network with its adapter switched off."""

    name = "adapter_off"

    @override
    @contextmanager
    def weights(self, net: Any) -> Iterator[Any]:
        with adapter_off(net):
            yield net.get_base_model()

    @override
    def hash(self, net: Any, frozen_hash: str) -> str:
        return frozen_hash


class SecondAdapter(Reference):
    """A frozen adapter beside the trained one: the reference of a policy that starts from an adapter, unmerged."""

    name = "second_adapter"

    @override
    def attach(self, net: Any) -> None:
        super().attach(net)
        with torch.random.fork_rng(devices=[]):  # peft draws first values, which are then replaced
            net.add_adapter(SECOND, copy.deepcopy(net.peft_config[ADAPTER]))
        copy_adapter(net, ADAPTER, SECOND)

    @override
    @contextmanager
    def weights(self, net: Any) -> Iterator[Any]:
        with unchanged(net), torch.no_grad():
            net.set_adapter(SECOND, inference_mode=True)
            try:
                yield net.get_base_model()
            finally:
                net.set_adapter(ADAPTER)

    @override
    @torch.no_grad()
    def refresh(self, net: Any, new_weight: float) -> None:
        for _, layer in lora_layers(net):
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[SECOND].weight.lerp_(matrices[ADAPTER].weight, new_weight)

    @override
    def hash(self, net: Any, frozen_hash: str) -> str:
        digest = hashlib.sha256(frozen_hash.encode())
        for name, layer in lora_layers(net):
            for matrix in (layer.lora_A[SECOND].weight, layer.lora_B[SECOND].weight):
                digest.update(name.encode() + full(matrix).to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()


class FrozenCopy(Reference):
    """A copy of what is trained, for full fine-tuning; what is frozen anyway stays shared with the policy."""

    name = "frozen_copy"
    needs_adapter = False

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = None

    @override
    def attach(self, net: Any) -> None:
        frozen = {id(tensor): tensor for tensor in net.parameters() if not tensor.requires_grad}
        self.net = copy.deepcopy(net, frozen).requires_grad_(False).eval()

    @override
    def shard(self, mesh: DeviceMesh) -> None:
        shard(plain(self.net), mesh)

    @override
    @contextmanager
    def weights(self, net: Any) -> Iterator[Any]:
        with torch.no_grad():
            yield plain(self.net)

    @override
    @torch.no_grad()
    def refresh(self, net: Any, new_weight: float) -> None:
        for own, policy in zip(self.net.parameters(), net.parameters(), strict=True):
            if policy.requires_grad:
                own.lerp_(policy, new_weight)

    @override
    def state(self, net: Any) -> dict[str, Tensor]:
        own = dict(self.net.named_parameters())
        names = [name for name, policy in net.named_parameters() if policy.requires_grad]
        return for_checkpoint({name: own[name].detach().clone() for name in names})

    @override
    @torch.no_grad()
    def load_state(self, net: Any, state: dict[str, Tensor]) -> None:
        own = dict(self.net.named_parameters())
        for name, tensor in state.items():
            own[name].copy_(split_like(tensor, own[name]))

    @override
    def hash(self, net: Any, frozen_hash: str) -> str:
        return weights_hash(self.net)


REFERENCES: dict[str, type[Reference]] = {kind.name: kind for kind in (AdapterOff, SecondAdapter, FrozenCopy)}


def make_reference(name: ReferenceName | None, tuning: str) -> Reference:
    """The reference of a name; by default the adapter switched off, or a frozen copy where there is no adapter.

    Args:
        name: One of `REFERENCES`.
        tuning: What is trained (`lit_vpo.modules.start.Tuning`).

    Raises:
        ValueError: An unknown name, or one that the tuning cannot have.
    """
    wanted = name or (AdapterOff.name if tuning == "lora" else FrozenCopy.name)
    if wanted not in REFERENCES:
        raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, got {name!r}")
    reference = REFERENCES[wanted]()
    if reference.needs_adapter and tuning != "lora":
        raise ValueError(f"reference: {wanted} needs tuning: lora, got {tuning!r}; use reference: frozen_copy")
    reference.encodes = tuning == "full"
    return reference


@contextmanager
def adapter_off(net: Any) -> Iterator[None]:
    """The network is the reference inside this context, without gradients, and the policy again after it.

    Args:
        net: A `PeftModel`.
    """
    with unchanged(net), torch.no_grad(), net.disable_adapter():
        yield


@contextmanager
def unchanged(net: Any) -> Iterator[None]:
    """Compare flags and the active adapter on exit: one that stayed flipped would stop training in silence.

    PEFT flips `requires_grad` of adapters while another one is active, or none.

    Args:
        net: A `PeftModel`.
    """
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    active = list(net.active_adapters)
    yield
    after = {name: p.requires_grad for name, p in net.named_parameters()}
    assert after == flags, "requires_grad changed in the reference"
    assert list(net.active_adapters) == active, "the active adapter changed in the reference"
