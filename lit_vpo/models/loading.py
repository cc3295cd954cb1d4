"""One door to networks and processors: shipped bases, tiny models, any checkpoint of a known family."""

import copy
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lit_vpo.models.registry import Family, families, get_family
from lit_vpo.models.tiny import TINY
from lit_vpo.sharding import full

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BASES = Path(__file__).parent / "assets" / "bases"
DType = Literal["float32", "bfloat16", "float16", "auto"]


def tiny_names() -> list[str]:
    """Names of the tiny models: `tiny_` and a family's name."""
    families()  # a family's module also holds its builder
    return sorted(TINY)


def shipped_names() -> list[str]:
    """Names of the models that come with this package, which plain transformers does not know."""
    return sorted(path.name for path in BASES.glob("*") if path.is_dir()) + tiny_names()


def family_of(model: str, family: str | None = None) -> Family:
    """The family of a model.

    Args:
        model: As for `load_model`.
        family: Name or dotted path, in place of what the model's own configuration says.

    Raises:
        ValueError: If the family is unknown, or the model cannot be found.
    """
    return get_family(family or model_type(model))


def model_type(model: str) -> str:
    """The `model_type` of a model's `config.json` (nothing else of the model is read)."""
    if model in tiny_names():
        return model.removeprefix("tiny_")
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(_locate(model))
    except OSError as error:
        raise ValueError(_not_found(model)) from error
    if "model_type" not in config:
        raise ValueError(f"{model}: config.json has no model_type; is it a Hugging Face model folder?")
    return str(config["model_type"])


def load_model(model: str, dtype: DType = "float32", family: str | None = None) -> "PreTrainedModel":
    """Load a network, in eval mode, on the CPU.

    Args:
        model: Folder or Hub name (`HF_HUB_OFFLINE` is honoured), name of a shipped base such as `motion_world_base`, or
            `tiny_<family>`, one of `tiny_names` (built in memory from a fixed seed).
        dtype: Number format of the weights; `auto` keeps the stored one.
        family: As for `family_of`.

    Raises:
        ValueError: If the model or its family is unknown.
    """
    found = family_of(model, family)
    number_format = dtype if dtype == "auto" else getattr(torch, dtype)
    if model in tiny_names():
        net: Any = TINY[model]()[0]
        return net if dtype == "auto" else net.to(number_format)  # type: ignore[no-any-return]
    try:
        return found.model_class().from_pretrained(_locate(model), dtype=number_format)
    except OSError as error:
        raise ValueError(_not_found(model)) from error


def load_processor(model: str) -> "ProcessorMixin":
    """Load the processor (tokenizer, chat template, video processor) of a model.

    Args:
        model: As for `load_model`.

    Raises:
        ValueError: If it cannot be found.
    """
    if model in tiny_names():
        processor: ProcessorMixin = TINY[model]()[1]
        return processor
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(_locate(model))  # type: ignore[no-any-return, no-untyped-call]
    except OSError as error:
        raise ValueError(_not_found(model)) from error


@torch.no_grad()
def save_model(net: Any, model: str, folder: Path, dtype: DType = "auto") -> None:
    """Write a network and its processor as a folder that plain transformers loads.

    Args:
        net: A plain network.
        model: Whose processor prepares its inputs, as for `load_model`.
        folder: Made where it is missing.
        dtype: Number format of the stored weights; `auto` keeps the network's.
    """
    number_format = net.dtype if dtype == "auto" else getattr(torch, dtype)
    if number_format != net.dtype:
        net = copy.deepcopy(net).to(number_format)  # cast tensors alone would lose the ties, and the config's dtype
    net.save_pretrained(folder)
    load_processor(model).save_pretrained(folder)


@torch.no_grad()
def weights_hash(source: nn.Module | str, frozen_only: bool = False, without: Collection[str] = ()) -> str:
    """Content hash of weights: sha256 over parameters and persistent buffers, sorted by name, read as fp32.

    Tied tensors count once. Since every format widens to fp32 without loss, a network and the folder that it came from
    have the same hash; so have a network and the frozen part of a `PeftModel` around it. Sharded tensors are gathered
    one after the other, so all ranks must come here.

    Args:
        source: A network, or what `load_model` takes.
        frozen_only: Leave out the parameters that training changes, and every adapter.
        without: Names of tensors to leave out.
    """
    net = load_model(source, "auto") if isinstance(source, str) else source
    tensors = [
        (name, tensor)
        for name, tensor in own_tensors(net)
        if not (frozen_only and (tensor.requires_grad or ".lora_" in name)) and name not in without
    ]
    return tensors_hash(tensors)


def own_tensors(net: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers by plain name, in its order; tied ones once."""
    persistent = set(net.state_dict(keep_vars=True))
    tensors: list[tuple[str, Tensor]] = list(net.named_parameters())
    tensors += [(name, tensor) for name, tensor in net.named_buffers() if name in persistent]
    return sorted(((plain_name(name), tensor) for name, tensor in tensors), key=lambda pair: pair[0])


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, shapes and values read as fp32, in the order given; sharded tensors are gathered.

    Args:
        tensors: One after the other is taken, so they need not be in memory at once.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = full(tensor).to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def plain_name(name: str) -> str:
    """A tensor's name without what PEFT puts around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _locate(model: str) -> str:
    base = BASES / model
    return str(base) if (base / "config.json").is_file() else model


def weights_folder(model: str) -> Path | None:
    """Folder of a model's files; None for models built in memory.

    Args:
        model: As for `load_model`; a Hub name is looked up in the local cache, where loading has put it.
    """
    if model in tiny_names():
        return None
    folder = Path(_locate(model))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))


def _not_found(model: str) -> str:
    names = ", ".join(shipped_names())
    return (
        f"model {model!r} is neither a folder nor a name that the Hub (or its local cache) knows, nor one of: {names}. "
        "Check the path; without a network, set HF_HUB_OFFLINE=1 and use a downloaded folder"
    )
