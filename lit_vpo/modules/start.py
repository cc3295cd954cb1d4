"""The network that training starts from: base, merged adapter, weights of an earlier run, what is trained."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_vpo.ledger import Ledger, merge_targets
from lit_vpo.lora import LoRASettings, add_lora, merge_adapter
from lit_vpo.models import Family, load_model, weights_hash
from lit_vpo.pristine import PristineWeights

Tuning = Literal["lora", "language_model", "full"]
TUNINGS: tuple[Tuning, ...] = ("lora", "language_model", "full")


def build_network(
    model: str,
    family: Family,
    dtype: Any,
    tuning: Tuning,
    lora: LoRASettings | None,
    adapter: str | None,
    init_from: str | None,
    seed: int,
) -> Any:
    """Load, merge, restore, then mark what is trained.

    Args:
        model: See `lit_vpo.models.load_model`.
        family: Of the model.
        dtype: See there.
        tuning: `lora` (adapter on the language model), `language_model`, or `full` (language model and projector).
        lora: Of the adapter.
        adapter: PEFT folder, merged first.
        init_from: Checkpoint of an earlier run, whose tensors replace the base's.
        seed: Of a fresh adapter.
    """
    net: Any = load_model(model, dtype, family.name)
    if adapter is not None:
        net = merge_adapter(net, adapter)
    if init_from is not None:
        restore(net, init_from)
    if tuning == "lora":
        return add_lora(net, family, lora or LoRASettings(), seed)
    trained = [family.language_model, family.head] + (list(family.projector) if tuning == "full" else [])
    mark_trainable(net, trained)
    return net


def mark_trainable(net: Any, prefixes: list[str]) -> None:
    """Train what lies under the prefixes and nothing else.

    Args:
        net: A plain network.
        prefixes: Dotted names.
    """
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes))


@torch.no_grad()
def restore(net: Any, path: str) -> None:
    """Copy the tensors of one of our checkpoints into a plain network; LoRA matrices are merged, never stacked.

    Args:
        net: A plain network; it is changed.
        path: Checkpoint of a module of this package.

    Raises:
        ValueError: If the file is no such checkpoint, or was trained on another model.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"init_from: cannot read {path}: {error}") from error
    if "lit_vpo" not in checkpoint:
        raise ValueError(
            f"init_from: {path} is not a checkpoint of this package; give a Hugging Face folder as `model`"
        )
    # a tower run also keeps its heads, which have no place in the network
    state = {k.removeprefix("net."): v for k, v in checkpoint["state_dict"].items() if k.startswith("net.")}
    own = dict(net.named_parameters(remove_duplicate=False))
    _check_rest(net, set(state), checkpoint["lit_vpo"]["frozen_hash"], path)
    scaling = checkpoint["lit_vpo"]["settings"].get("lora_scaling")
    entries = checkpoint["lit_vpo"].get("rounds", {}).get("ledger", [])
    if entries:
        names = sorted({name for entry in entries for name in entry})
        ledger = Ledger(PristineWeights(merge_targets(net, names), None))
        ledger.load(entries)
        ledger.apply(net)
    for name, tensor in _merged(state, own, scaling).items():
        own[name].copy_(tensor)


def _check_rest(net: Any, trained: set[str], frozen_hash: str, path: str) -> None:
    """What the earlier run left frozen must be the same here, or its tensors would land on another model.

    Raises:
        ValueError: If it is not.
    """
    if weights_hash(net, without=trained) != frozen_hash:
        raise ValueError(
            f"init_from: {path} was trained on another model (its frozen weights differ). Give the same `model` and "
            "`adapter`; if that run had an init_from of its own, save its network with the SavePretrained callback and "
            "give that folder as `model`"
        )


def _merged(state: dict[str, Tensor], own: dict[str, Tensor], scaling: float | None) -> dict[str, Tensor]:
    """Whole weights in place of adapter matrices: W + s B A, in fp32."""
    whole = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    for name, a in state.items():
        if ".lora_A.default." in name:  # a second adapter is a reference, no part of the policy
            assert scaling is not None
            target = name.removeprefix("base_model.model.").replace(".lora_A.default.", ".")
            b = state[name.replace(".lora_A.", ".lora_B.")]
            whole[target] = own[target].float() + scaling * (b.float() @ a.float())
    return whole
