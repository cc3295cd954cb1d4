"""LoRA on the language model, and nowhere else; merging an adapter that was trained elsewhere."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lit_vpo.models.registry import Family
from lit_vpo.randomness import generator
from lit_vpo.sharding import split_like

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "default"


@dataclass(frozen=True)
class LoRASettings:
    """A LoRA adapter.

    Attributes:
        r: Rank.
        alpha: The update is scaled by alpha / r.
        dropout: Kept for a paper's record; training sets every dropout to 0 and says so in the log.
        targets: `all-linear`, or the last parts of the layers' names, such as [q_proj, v_proj].
    """

    r: int = 32
    alpha: float = 64
    dropout: float = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0:
            raise ValueError(f"LoRA needs r >= 1 and alpha > 0, got r={self.r}, alpha={self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout must be in [0, 1), got {self.dropout}")


def target_pattern(net: nn.Module, family: Family, targets: list[str] | str) -> str:
    """A regular expression that matches the targets inside the language model only.

    A bare suffix would also hit the vision tower, whose layers have the same names (q_proj).

    Args:
        net: The network, without adapter.
        family: Says where its language model, tower and projector are.
        targets: As in `LoRASettings`.

    Raises:
        ValueError: If a target is in the tower or the projector only, or nowhere.
    """
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    seeing = (family.vision, *family.projector)
    speaking = [n for n in linear if _inside(n, (family.language_model,)) and not _inside(n, seeing)]
    known = sorted({name.rpartition(".")[2] for name in speaking})
    suffixes = known if targets == "all-linear" else list(targets)
    for suffix in suffixes:
        if any(_ends(name, suffix) for name in speaking):
            continue
        if any(_ends(name, suffix) for name in linear if _inside(name, seeing)):
            raise ValueError(
                f"LoRA target {suffix!r} is in the vision tower or the projector ({family.vision}), which stay frozen; "
                f"choose among the language model's: {', '.join(known)}"
            )
        raise ValueError(f"LoRA target {suffix!r} is no linear layer of the language model; it has: {', '.join(known)}")
    names = "|".join(re.escape(suffix) for suffix in suffixes)
    pattern = rf"{re.escape(family.language_model)}\.(?:.*\.)?(?:{names})"
    assert not any(re.fullmatch(pattern, name) and _inside(name, seeing) for name in linear)
    return pattern


def add_lora(net: Any, family: Family, settings: LoRASettings, seed: int, round_index: int = 0) -> "PeftModel":
    """Wrap a network with a fresh adapter; every other parameter is frozen.

    Args:
        net: A plain network.
        family: Its family.
        settings: Of the adapter.
        seed: Of the adapter's first values, whose address is (seed, "lora", round, layer).
        round_index: The round that the adapter starts.

    Raises:
        ValueError: If the network has an adapter already, or a target is not in the language model.
    """
    from peft import LoraConfig, get_peft_model

    refuse_adapter(net)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides by r: a fraction is as good
        lora_dropout=settings.dropout,
        target_modules=target_pattern(net, family, settings.targets),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; ours follows
        wrapped = get_peft_model(net, config)
    reset_adapter(wrapped, seed, round_index)
    return wrapped


@torch.no_grad()
def reset_adapter(net: nn.Module, seed: int, round_index: int = 0) -> None:
    """Give the adapter its first values in place (the optimizer keeps its parameters): A by address, B = 0."""
    for name, layer in lora_layers(net):
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        fresh = torch.empty(a.shape)
        nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator(seed, "lora", round_index, name))
        a.copy_(split_like(fresh, a))
        b.zero_()


@torch.no_grad()
def copy_adapter(net: nn.Module, source: str, target: str) -> None:
    """Copy one adapter's matrices into another's, in place.

    Args:
        net: A `PeftModel` that carries both.
        source: Name of the adapter that is read.
        target: Name of the adapter that is written.
    """
    for _, layer in lora_layers(net):
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[target].weight.copy_(matrices[source].weight)


def lora_layers(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer that carries an adapter, with its name."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in net.named_modules() if isinstance(module, LoraLayer))


def plain(net: Any) -> Any:
    """The Hugging Face network inside a `PeftModel`, or the network itself."""
    return net.get_base_model() if hasattr(net, "peft_config") else net


def refuse_adapter(net: Any) -> None:
    """Refuse a network that carries an adapter: training would silently stack on it, or start from a wrong reference.

    Raises:
        ValueError: If it does.
    """
    if hasattr(net, "peft_config") or any(True for _ in lora_layers(net)):
        raise ValueError(
            "the network carries a LoRA adapter already; name its folder as `adapter`, so that it is merged first"
        )


def refuse_unrestorable(net: nn.Module) -> None:
    """Refuse trainable parameters outside the adapter: with the adapter off they would still differ from the reference.

    Raises:
        ValueError: If there are any, by name.
    """
    others = [name for name, p in net.named_parameters() if p.requires_grad and ".lora_" not in name]
    if others:
        raise ValueError(
            f"the adapter-off reference cannot restore these trainable parameters: {', '.join(others[:5])}"
            f"{' ...' if len(others) > 5 else ''}; use tuning: lora, without modules_to_save"
        )


@torch.no_grad()
def merge_adapter(net: Any, adapter: str) -> Any:
    """Merge a PEFT LoRA folder into a network, the sum in fp32 and rounded once.

    Args:
        net: A plain network; it is changed.
        adapter: Folder with `adapter_config.json`.

    Returns:
        The network, plain again.

    Raises:
        ValueError: If the folder holds no LoRA adapter, does not fit the network, or holds more than LoRA matrices.
    """
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    refuse_adapter(net)
    try:
        config = PeftConfig.from_pretrained(adapter)
        weights = load_peft_weights(adapter, device="cpu")
    except (OSError, ValueError) as error:
        raise ValueError(f"adapter: {adapter} is not a folder that PEFT saved an adapter in ({error})") from error
    _check_mergeable(config, adapter)
    with torch.random.fork_rng(devices=[]):
        wrapped: Any = get_peft_model(net, config)
    result: Any = set_peft_model_state_dict(wrapped, weights)
    missing = [name for name in result.missing_keys if "lora_" in name]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"adapter {adapter} does not fit the model: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}"
        )
    for _, layer in lora_layers(wrapped):
        merge_layer(layer)
    return wrapped.unload().requires_grad_(True)


def merge_layer(layer: Any, name: str = ADAPTER) -> None:
    """W <- round(W + s B A) for one layer, in place, the sum in fp32."""
    weight: Tensor = layer.get_base_layer().weight
    update = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float() * layer.scaling[name]
    weight.data.copy_(weight.float() + update)


def _check_mergeable(config: Any, adapter: str) -> None:
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA" or config.use_dora:
        raise ValueError(f"adapter {adapter} is not a plain LoRA adapter; merge it with the tool that made it")
    extra = [name for name in ("modules_to_save", "trainable_token_indices") if getattr(config, name, None)]
    extra += ["bias"] if config.bias != "none" else []
    if extra or config.fan_in_fan_out:
        raise ValueError(
            f"adapter {adapter} holds more than LoRA matrices ({', '.join(extra) or 'fan_in_fan_out'}), which an "
            "adapter-off reference cannot restore; merge it with the tool that made it and give that folder as `model`"
        )


def _inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _ends(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)
