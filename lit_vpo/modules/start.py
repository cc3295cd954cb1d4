"""The network that training starts from: base, merged adapter, weights of an earlier run, what is trained."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_vpo.ledger import Entry, fold
from lit_vpo.lora import LoRASettings, add_lora, merge_adapter
from lit_vpo.models import Family, load_model, weights_hash
from lit_vpo.models.loading import plain_name

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
    net = start_network(model, family, dtype, adapter, init_from)
    if tuning == "lora":
        return add_lora(net, family, lora or LoRASettings(), seed)
    trained = [family.language_model, family.head] + (list(family.projector) if tuning == "full" else [])
    mark_trainable(net, trained)
    return net


def start_network(model: str, family: Family, dtype: Any, adapter: str | None, init_from: str | None) -> Any:
    """The plain network that training starts from; see `build_network`."""
    net: Any = load_model(model, dtype, family.name)
    if adapter is not None:
        net = merge_adapter(net, adapter)
    if init_from is not None:
        restore(net, init_from)
    return net


def mark_trainable(net: Any, prefixes: list[str]) -> None:
    """Train what lies under the prefixes and nothing else.

    Args:
        net: A plain network.
        prefixes: Dotted names.
    """
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes))


def restore(net: Any, path: str) -> None:
    """Copy the tensors of one of our checkpoints into a plain network; LoRA matrices are merged, never stacked.

    Args:
        net: A plain network; it is changed.
        path: Checkpoint of a module of this package.

    Raises:
        ValueError: If the file is no such checkpoint, or was trained on another model.
    """
    checkpoint = open_checkpoint(path)
    if not fits(net, checkpoint):
        raise ValueError(
            f"init_from: {path} was trained on another model (its frozen weights differ). Give the same `model` and "
            "`adapter`; if that run had an init_from of its own, write its network with the command `export --to hf` "
            "and give that folder as `model`"
        )
    take_over(net, checkpoint)


def open_checkpoint(path: str) -> dict[str, Any]:
    """One of our checkpoints, on the CPU.

    Raises:
        ValueError: If the file is none.
    """
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no error of its own: it raises those of files, of zip and of unpickling
        kind = type(error).__name__
        raise ValueError(f"cannot read the checkpoint {path} ({kind}); give a file that `fit` wrote") from error
    if not isinstance(checkpoint, dict) or "lit_vpo" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this package; give a Hugging Face folder as `model`")
    return checkpoint


def arguments_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The module's arguments that `save_hyperparameters` stored, also where Lightning keeps them as `init_args`.

    Args:
        checkpoint: Of any module.
    """
    stored = checkpoint.get("hyper_parameters", {})
    arguments = stored.get("init_args", stored)
    return dict(arguments) if isinstance(arguments, dict) else {}


def fits(net: Any, checkpoint: dict[str, Any]) -> bool:
    """Whether the network has the weights that a run left frozen; else its tensors would land on another model.

    Args:
        net: A plain network.
        checkpoint: From `open_checkpoint`.
    """
    frozen_hash: str = checkpoint["lit_vpo"]["frozen_hash"]
    return weights_hash(net, without=set(_tensors(checkpoint))) == frozen_hash


@torch.no_grad()
def take_over(net: Any, checkpoint: dict[str, Any]) -> None:
    """Bring a plain network that `fits` to where a checkpoint's policy stands; all its adapters are merged at once.

    Args:
        net: It is changed.
        checkpoint: From `open_checkpoint`.
    """
    own = dict(net.named_parameters(remove_duplicate=False))
    fold(net, adapters_of(checkpoint))
    for name, tensor in _tensors(checkpoint).items():
        if ".lora_" not in name:
            own[name].copy_(tensor)


def adapters_of(checkpoint: dict[str, Any]) -> list[Entry]:
    """The policy's adapters, oldest first: those of merged rounds, then the live one.

    Args:
        checkpoint: From `open_checkpoint`.
    """
    ours, state = checkpoint["lit_vpo"], _tensors(checkpoint)
    live: Entry = {}
    for name, a in state.items():
        layer, found, _ = plain_name(name).partition(".lora_A.default.")  # a second adapter is a reference, not policy
        if found:
            live[layer] = [a, state[name.replace(".lora_A.", ".lora_B.")], ours["settings"]["lora_scaling"]]
    return [*ours.get("rounds", {}).get("ledger", []), *([live] if live else [])]


def _tensors(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Those of the network; a tower run also keeps its heads, which have no place in it."""
    return {k.removeprefix("net."): v for k, v in checkpoint["state_dict"].items() if k.startswith("net.")}
