"""Bootstrap intervals of ratios of sums, for one set of clips and for the same clips before and after.

Clips are resampled, never captions or events: what one clip holds is not independent. Percentile intervals (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_CELLS = 2**20  # of a chunk's (resamples x clips) matrix: 8 MB


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    Args:
        estimate: On the clips themselves; nan if a denominator sums to 0.
        low: Lower end.
        high: Upper end.
        num_undefined: Resamples left out of the quantiles because a denominator summed to 0 in them.
    """

    estimate: float
    low: float
    high: float
    num_undefined: int = 0


def bootstrap_ratio(
    numerators: Tensor, denominators: Tensor, seed: int, num_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Interval of sum(numerators) / sum(denominators).

    Args:
        numerators: (n,) one per clip.
        denominators: (n,) one per clip; ones give a mean.
        seed: Of the resampling.
        num_resamples: How many.
        confidence: Share of resamples inside the interval.

    Raises:
        ValueError: If shapes differ, there is no clip, or the numbers are out of range.
    """
    return _bootstrap(torch.stack(_checked(numerators, denominators), 1), seed, num_resamples, confidence)


def paired_bootstrap(
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    seed: int,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the ratio after minus the ratio before, each resample drawing the same clips for both.

    Args:
        before: Numerators and denominators, (n,) each; row i is clip i.
        after: The same of the same clips.
        seed: Of the resampling; equal seeds draw equal clips for every statistic over n clips.
        num_resamples: How many.
        confidence: Share of resamples inside the interval.

    Raises:
        ValueError: If shapes differ, there is no clip, or the numbers are out of range.
    """
    return _bootstrap(torch.stack(_checked(*before, *after), 1), seed, num_resamples, confidence)


def resampled_clips(num_clips: int, num_resamples: int, seed: int) -> Iterator[Tensor]:
    """The draws, in chunks (resamples, num_clips) of int32 clip numbers; a function of its arguments alone."""
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, _CELLS // num_clips)
    for start in range(0, num_resamples, chunk):
        size = (min(chunk, num_resamples - start), num_clips)
        yield torch.randint(num_clips, size, generator=generator, dtype=torch.int32)


def _checked(*columns: Tensor) -> list[Tensor]:
    shapes = [tuple(column.shape) for column in columns]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0][0] == 0:
        raise ValueError(f"numerators and denominators must all have one shape (clips,), clips >= 1, got {shapes}")
    return [column.detach().cpu().double() for column in columns]


def _bootstrap(table: Tensor, seed: int, num_resamples: int, confidence: float) -> Interval:
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"need num_resamples >= 1 and 0 < confidence < 1, got {num_resamples} and {confidence}")
    sums = torch.cat([_times_drawn(clips) @ table for clips in resampled_clips(len(table), num_resamples, seed)])
    values = _statistic(sums)
    defined = values[values.isfinite()]
    estimate = float(_statistic(table.sum(0, keepdim=True)))
    if not len(defined):
        return Interval(estimate, float("nan"), float("nan"), num_resamples)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(estimate, low, high, num_resamples - len(defined))


def _times_drawn(clips: Tensor) -> Tensor:
    """How often each clip was drawn, (resamples, clips) float64: a matrix product then sums faster than a gather."""
    rows, num_clips = clips.shape
    flat = clips + torch.arange(0, rows * num_clips, num_clips, dtype=torch.int32).unsqueeze(1)
    return torch.bincount(flat.flatten(), minlength=rows * num_clips).view(rows, num_clips).double()


def _statistic(sums: Tensor) -> Tensor:
    """(resamples, 2) -> the ratio; (resamples, 4) -> the second ratio minus the first; nan for a denominator of 0."""
    ratios = torch.where(sums[:, 1::2] == 0, torch.nan, sums[:, ::2] / sums[:, 1::2])
    return ratios[:, 0] if ratios.shape[1] == 1 else ratios[:, 1] - ratios[:, 0]
