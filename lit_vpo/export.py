"""A checkpoint's policy as a folder that plain transformers or PEFT loads, with a model card."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from rich.console import Console

import lit_vpo
from lit_vpo.ledger import Entry
from lit_vpo.lora import ADAPTER, LoRASettings, add_lora, lora_layers
from lit_vpo.models import Family, family_of, weights_hash
from lit_vpo.models.loading import DType, plain_name, save_model, shipped_names
from lit_vpo.modules.start import adapters_of, arguments_of, fits, open_checkpoint, start_network, take_over

_CARD = """---
library_name: {library}
tags: [lit_vpo, video]
---
# {title}

| | |
|---|---|
{facts}

```python
{usage}
```
"""


class Source(NamedTuple):
    """A checkpoint, and the network that its run started from."""

    path: str
    checkpoint: dict[str, Any]
    arguments: dict[str, Any]  # of its module
    family: Family
    net: Any  # plain


def export(path: str, to: str, out: str, dtype: str = "auto") -> None:
    """Writes what a run has learned as a folder, whole or not at all.

    `hf` is the network with everything merged, and its processor. `peft` is one adapter of the module's `model`: those
    of merged rounds, and of a LoRA run that it started from, stand in it beside the live one (their ranks add up), so
    that it is right on the base as everyone has it and never needs a merged one.

    Args:
        path: Checkpoint of a module of this package.
        to: `peft` or `hf`.
        out: The folder to write.
        dtype: Number format of the stored weights; `auto` keeps that of training (an adapter's is float32). A wider one
            stores the same values.

    Raises:
        ValueError: If `to` or `dtype` is unknown, the folder is in use, the checkpoint is not ours or was trained on
            other weights than its `model` has now, or `peft` is asked of a run that is no adapter of its `model`.
    """
    writers: dict[str, Callable[[Source, Path, Any], None]] = {"peft": _write_peft, "hf": _write_hf}
    if to not in writers:
        raise ValueError(f"--to takes {' or '.join(writers)}, got {to!r}")
    if dtype not in get_args(DType):
        raise ValueError(f"--dtype takes {', '.join(get_args(DType))}, got {dtype!r}")
    folder = Path(out).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{out} exists and is no empty folder; name another one, or remove it")
    source = _open(path, to)
    with _in_one_step(folder) as part:
        writers[to](source, part, dtype)
    Console().print(f"{path} as {to}: {out}", soft_wrap=True)


def _open(path: str, to: str) -> Source:
    checkpoint = open_checkpoint(path)
    arguments = arguments_of(checkpoint)
    if "model" not in arguments:
        raise ValueError(f"{path} does not name its model; call save_hyperparameters in your module's __init__")
    if to == "peft":
        _check_adapter(path, checkpoint, arguments)
    model, adapter, init_from = arguments["model"], arguments.get("adapter"), arguments.get("init_from")
    family = family_of(model, arguments.get("family"))
    net = start_network(model, family, arguments.get("dtype", "float32"), adapter, init_from)
    if not fits(net, checkpoint):
        raise ValueError(
            f"{path} was trained on other weights than {model} has now (with adapter {adapter} and init_from "
            f"{init_from}): put those of the training back in their place"
        )
    return Source(path, checkpoint, arguments, family, net)


def _check_adapter(path: str, checkpoint: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Refuse what no adapter of the base can say."""
    reason = None
    if not adapters_of(checkpoint):
        reason = f"has no adapter (it trained {checkpoint['lit_vpo']['settings'].get('tuning', 'a tower')})"
    elif arguments.get("adapter") is not None:
        reason = f"started from a merged adapter ({arguments['adapter']})"
    elif arguments.get("init_from") is not None and not adapters_of(open_checkpoint(arguments["init_from"])):
        reason = f"started from whole weights ({arguments['init_from']})"
    if reason is not None:
        raise ValueError(f"{path} {reason}, so it is no adapter of {arguments['model']}; use --to hf")


def _write_hf(source: Source, folder: Path, dtype: DType) -> None:
    take_over(source.net, source.checkpoint)
    save_model(source.net, source.arguments["model"], folder, dtype)
    facts = {"weights as trained (sha256)": weights_hash(source.net)}
    usage = ["from transformers import AutoProcessor", 'processor = AutoProcessor.from_pretrained("DIR")']
    _write_card(source, folder, "transformers", facts, [*usage, _loading(source.net, "net", "DIR")])


def _write_peft(source: Source, folder: Path, dtype: DType) -> None:
    init_from, model = source.arguments.get("init_from"), source.arguments["model"]
    earlier = adapters_of(open_checkpoint(init_from)) if init_from is not None else []
    adapters = [*earlier, *adapters_of(source.checkpoint)]
    rank = sum(_rank(entry) for entry in adapters)
    scaling = source.checkpoint["lit_vpo"]["settings"]["lora_scaling"]
    targets = sorted({layer.rpartition(".")[2] for entry in adapters for layer in entry})
    net: Any = add_lora(source.net, source.family, LoRASettings(rank, scaling * rank, targets=targets), seed=0)
    _fill(net, adapters, scaling)
    if dtype != "auto":
        net.to(getattr(torch, dtype))
    net.peft_config[ADAPTER].base_model_name_or_path = model
    net.save_pretrained(folder, save_embedding_layers=False)
    usage = ["from peft import PeftModel", _loading(source.net, "base", model)]
    usage.append('net = PeftModel.from_pretrained(base, "DIR")')
    facts = {"adapter": f"rank {rank} on {', '.join(targets)}, {len(adapters)} of training in one"}
    _write_card(source, folder, "peft", facts, usage)


@torch.no_grad()
def _fill(net: Any, adapters: list[Entry], scaling: float) -> None:
    """Lay adapters side by side: s [B_1 B_2] [A_1; A_2] = s B_1 A_1 + s B_2 A_2; zeros where one lacks the layer."""
    for name, layer in lora_layers(net):
        a, b, first = layer.lora_A[ADAPTER].weight.zero_(), layer.lora_B[ADAPTER].weight.zero_(), 0
        for entry in adapters:
            last = first + _rank(entry)
            if plain_name(name) in entry:
                own_a, own_b, scale = entry[plain_name(name)]
                a[first:last] = own_a
                b[:, first:last] = own_b * (scale / scaling)
            first = last


def _rank(entry: Entry) -> int:
    return len(next(iter(entry.values()))[0])


def _loading(net: Any, name: str, model: str) -> str:
    if model in shipped_names():
        return f'from lit_vpo.models import load_model\n{name} = load_model("{model}")'
    kind = type(net).__name__
    return f'from transformers import {kind}\n{name} = {kind}.from_pretrained("{model}")'


def _write_card(source: Source, folder: Path, library: str, more: dict[str, str], usage: list[str]) -> None:
    ours, arguments = source.checkpoint["lit_vpo"], source.arguments
    rounds = ours.get("rounds", {})
    facts = {
        "base": arguments["model"],
        "weights left frozen (sha256)": ours["frozen_hash"],
        **{name: arguments[name] for name in ("adapter", "init_from") if arguments.get(name) is not None},
        "checkpoint": f"{source.path}, step {source.checkpoint.get('global_step')}",
        "rounds": f"{rounds.get('round', 0)} ended, {len(rounds.get('ledger', []))} adapters merged",
        **more,
        "written by": f"lit_vpo {lit_vpo.__version__}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    card = _CARD.format(library=library, title=f"{arguments['model']}, trained", facts=table, usage="\n".join(usage))
    (folder / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def _in_one_step(folder: Path) -> Iterator[Path]:
    """A folder beside the one to write, which takes its place when all is written and goes when anything fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp makes private folders
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part)
        raise
