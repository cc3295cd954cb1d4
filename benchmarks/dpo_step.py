"""One preference step: this project's shared rows, its separate rows, and TRL's DPOTrainer on the same pair.

    python benchmarks/dpo_step.py [--quick] [--json] [--device cuda --size 7b]

The three run in turns in one process, on the same weights, pair, adapter and number format; every time is a median
with minimum and maximum, every ratio the median of the rounds' ratios. A step is loss and gradients of one pair,
without the optimizer. TRL gets video the only way it takes it: a collator of one's own, `remove_unused_columns=False`,
`max_length=None`. Beside each ratio stands what `pair_step/flops.py` expects from counting operations. Peak memory is
measured with each side in a process of its own. Losses and gradient norms must agree, or this exits with an error.

Wanted on a CPU with `--quick`: at least 90 % of the expected ratio, 2.0 with the reference online and 2.6 with it
cached (goal: 2.2 and 3.0), and at most 0.6 of TRL's memory. Needs `trl` 1.16.
"""

import argparse
import contextlib
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from pair_step.measure import VARIANTS, DisagreementError, Runner, Variant, interleaved, peak_memory
from pair_step.report import NOTES, judged, row, table
from pair_step.workload import GRIDS, SIZES, Case
from rich.console import Console
from rich.progress import Progress

MEMORY = [("ours", "online"), ("ours", "cached"), ("trl", "online")]


def options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape: 1568 visual tokens, responses of 100, LoRA")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda computes in bf16")
    parser.add_argument("--size", choices=tuple(SIZES), help="60m on a CPU, 7b on CUDA by default")
    parser.add_argument("--n-visual", type=int, nargs="+", choices=tuple(GRIDS), default=[512, 1568, 4096])
    parser.add_argument("--response", type=int, nargs="+", default=[64, 200], help="tokens of each response")
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--repeats", type=int, help="rounds; 2 with --quick, 5 without")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--skip-memory", action="store_true", help="measure no peak memory")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.n_visual, chosen.response, chosen.tuning = [1568], [100], ["lora"]
    chosen.repeats = chosen.repeats or (2 if chosen.quick else 5)
    chosen.size = chosen.size or ("7b" if chosen.device == "cuda" else "60m")
    return chosen


def cases(chosen: argparse.Namespace) -> Iterator[Case]:
    """Every shape that was asked for; on CUDA with gradient checkpointing."""
    cuda = chosen.device == "cuda"
    for tuning, n_visual, response in itertools.product(chosen.tuning, chosen.n_visual, chosen.response):
        yield Case(chosen.size, n_visual, response, tuning, chosen.device, checkpointing=cuda)


def measure(
    case: Case, variants: Sequence[Variant], repeats: int, memory: bool, tick: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The two rows of a case: reference online and cached."""
    peaks = peak_memories(case, tick) if memory else {}
    runner = Runner(case)
    seconds = interleaved(runner, variants, repeats, tick)
    return [row(runner, seconds, reference, peaks) for reference in ("online", "cached")]


def peak_memories(case: Case, tick: Callable[[str], None]) -> dict[Variant, int]:
    """Of the sides that are compared; on a CPU at the same time, because nothing is timed here."""

    def peak(variant: Variant) -> int:
        side, reference = variant
        found = peak_memory(case, side, cached=reference == "cached")
        tick(f"memory of {side} {reference}")
        return found

    with ThreadPoolExecutor(len(MEMORY) if case.device == "cpu" else 1) as pool:
        return dict(zip(MEMORY, pool.map(peak, MEMORY), strict=True))


def run(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, with a bar on the error stream."""
    wanted = list(cases(chosen))
    # what a library does once is done before anything counts
    interleaved(Runner(replace(wanted[0], size="tiny", n_visual=16, response=8)), VARIANTS, 1, lambda _: None)
    variants = [variant for variant in VARIANTS if not (chosen.quick and variant == ("trl", "cached"))]
    steps = chosen.repeats * len(variants) + (0 if chosen.skip_memory else len(MEMORY))
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=steps * len(wanted))
        for case in wanted:
            shape = f"{case.size} {case.tuning} {case.n_visual}+{case.response}"

            def tick(what: str, shape: str = shape) -> None:
                progress.update(task, advance=1, description=f"{shape}: {what}")

            rows += measure(case, variants, chosen.repeats, not chosen.skip_memory, tick)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Parses the options, measures, prints."""
    chosen = options(arguments)
    warnings.simplefilter("ignore")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries say as they are imported is no result
            rows = run(chosen)
    except DisagreementError as error:
        sys.exit(f"error: {error}")
    if chosen.json:
        print(json.dumps({"rows": rows}))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(rows), NOTES)
    for line in judged(rows) if chosen.quick and chosen.device == "cpu" else ():
        console.print(line)


if __name__ == "__main__":
    main()
