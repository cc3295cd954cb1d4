"""Seconds, interleaved in one process; peak memory, each side in a process of its own; agreement of the results."""

import contextlib
import ctypes
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from pair_step.sides import Ours, Side, Trl
from pair_step.workload import Case

# largest difference of the losses, and of the gradients' norms over TRL's; in bf16 the summed log-probabilities of
# hundreds of tokens carry the rounding of each
TOLERANCE = {"cpu": (1e-4, 1e-3), "cuda": (0.05, 0.05)}
VARIANTS = [(side, reference) for reference in ("online", "cached") for side in ("ours", "k_rows", "trl")]
Variant = tuple[str, str]


class DisagreementError(Exception):
    """Two sides computed different things, so their times must not be compared."""


class Runner:
    """The sides of one case, side by side in this process."""

    def __init__(self, case: Case) -> None:
        self.case = case
        if case.device == "cpu":
            keep_freed_memory()
        ours = Ours(case)
        self.sides: dict[str, Side] = {"ours": ours, "k_rows": ours, "trl": Trl(case)}
        self.results: dict[Variant, tuple[float, float]] = {}

    def step(self, variant: Variant) -> float:
        """Seconds of one step; loss and gradient norm go to `results`."""
        name, reference = variant
        side = self.sides[name]
        if isinstance(side, Ours):
            side.share = name == "ours"
        self._wait()
        start = time.perf_counter()
        loss = side.step(cached=reference == "cached")
        self._wait()
        seconds = time.perf_counter() - start
        self.results[variant] = loss, side.grad_norm()
        side.clear()
        return seconds

    def _wait(self) -> None:
        if self.case.device == "cuda":
            torch.cuda.synchronize()

    def differences(self, reference: str) -> tuple[float, float]:
        """Of ours and TRL's: losses, and gradient norms relative to TRL's.

        Raises:
            DisagreementError: If they, or those of ours and of separate rows, are beyond `TOLERANCE`.
        """
        found = [self._difference("ours", other, reference) for other in ("k_rows", "trl")]
        limits = TOLERANCE[self.case.device]
        for other, difference in zip(("separate rows", "TRL"), found, strict=True):
            if not all(value <= limit for value, limit in zip(difference, limits, strict=True)):
                raise DisagreementError(
                    f"this project and {other} disagree ({self.case}, reference {reference}): loss by "
                    f"{difference[0]:.2e} (at most {limits[0]:g}), gradient norm by {difference[1]:.2e} of it "
                    f"(at most {limits[1]:g})"
                )
        return found[1]

    def _difference(self, one: str, other: str, reference: str) -> tuple[float, float]:
        loss, norm = self.results[one, reference]
        # with the reference given or not, the results are the same
        other_loss, other_norm = self.results.get((other, reference)) or self.results[other, "online"]
        return abs(loss - other_loss), abs(norm - other_norm) / other_norm


def interleaved(
    runner: Runner, variants: Sequence[Variant], repeats: int, tick: Callable[[str], None]
) -> dict[Variant, list[float]]:
    """Seconds of every variant, one after the other in every round.

    Args:
        runner: Of the case.
        variants: In their order.
        repeats: Rounds.
        tick: Called with a variant's name after each step.
    """
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for _ in range(repeats):
        for variant in variants:
            seconds[variant].append(runner.step(variant))
            tick(" ".join(variant))
    return seconds


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back.

    The system hands out large tensors page by page, and takes them back when they are freed. Without this, a third of a
    CPU's time goes there, most of it on the side that makes the largest tensors: the ratio would tell of the allocator.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        mmap_max, trim_threshold = -4, -1
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def ratios(slower: list[float], faster: list[float]) -> tuple[float, float, float]:
    """Median, least and largest ratio of the rounds: what slows a whole round cancels."""
    values = [a / b for a, b in zip(slower, faster, strict=True)]
    return statistics.median(values), min(values), max(values)


def peak_memory(case: Case, side: str, cached: bool) -> int:
    """Bytes at the peak of one step, in a fresh process.

    Args:
        case: What to compute.
        side: `ours` or `trl`.
        cached: Whether the reference is given (a frozen copy is then not built).

    Returns:
        On a CPU the growth of resident memory over what the process holds before the step (weights and batch are left
        out); on CUDA all allocated tensors.
    """
    # large tensors go back to the system when they are freed, so that resident memory is what lives
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    # a server that has imported everything and computed nothing can be forked safely: it has no threads
    context = multiprocessing.get_context("forkserver")
    # lit_vpo first: it guards torchvision (a server of Python 3.11 imports nothing from this folder)
    context.set_forkserver_preload(["lit_vpo", "lit_vpo.modules", "trl.trainer.dpo_trainer"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # unlike a Pool it fails when its process is killed
        return pool.submit(peak_here, case, side, cached, torch.get_num_threads()).result()


def peak_here(case: Case, side: str, cached: bool, threads: int) -> int:
    """As `peak_memory`, in this process."""
    torch.set_num_threads(threads)
    made = Ours(case, online=not cached) if side == "ours" else Trl(case, online=not cached)
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        made.step(cached)
        return torch.cuda.max_memory_allocated()
    before = _resident("VmRSS")
    with contextlib.suppress(OSError):  # not every sandbox lets the high-water mark be reset
        Path("/proc/self/clear_refs").write_text("5")
    made.step(cached)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
