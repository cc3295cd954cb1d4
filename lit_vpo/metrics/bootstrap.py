"""Bootstrap intervals of ratios of sums, for one set of clips and for the same clips before and after.

Clips are resampled, never captions or events: what one clip holds is not independent. Where the same clips were
answered by several training runs (seeds), runs are resampled beside clips, each draw of runs crossed with one of clips
(Owen, The pigeonhole bootstrap, Annals of Applied Statistics, 2007). With few runs such intervals are rather too
narrow: among three, resampling finds two thirds of their variance. Percentile intervals (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vpo.randomness import seed_of

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
        numerators: (n,) one per clip, or (runs, n).
        denominators: The same; ones give a mean.
        seed: Of the resampling.
        num_resamples: How many.
        confidence: Share of resamples inside the interval.

    Raises:
        ValueError: If shapes differ, there is no clip, or the numbers are out of range.
    """
    return _bootstrap([_table(numerators, denominators)], seed, num_resamples, confidence)


def paired_bootstrap(
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    seed: int,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the ratio after minus the ratio before, each resample drawing the same clips for both.

    Args:
        before: Numerators and denominators, (n,) or (runs, n) each; place i is clip i.
        after: The same of the same clips; its runs are drawn apart from those before.
        seed: Of the resampling; equal seeds draw equal clips for every statistic over n clips.
        num_resamples: How many.
        confidence: Share of resamples inside the interval.

    Raises:
        ValueError: If shapes differ, there is no clip, or the numbers are out of range.
    """
    return _bootstrap([_table(*before), _table(*after)], seed, num_resamples, confidence)


def per_clip(keys: Sequence[str], ratios: Sequence[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Numerators and denominators summed over the rows of each clip, whose rows are not independent.

    Args:
        keys: The clip of each row.
        ratios: Numerator and denominator of each row.

    Returns:
        (clips,) float64 each, clips in the order of their first rows.
    """
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    sums = torch.zeros(len(place), 2, dtype=torch.float64)
    sums.index_add_(0, torch.tensor([place[key] for key in keys]), torch.tensor(ratios, dtype=torch.float64))
    return sums[:, 0], sums[:, 1]


def resampled_clips(num_clips: int, num_resamples: int, seed: int) -> Iterator[Tensor]:
    """The draws, in chunks (resamples, num_clips) of int32 clip numbers; a function of its arguments alone."""
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, _CELLS // num_clips)
    for start in range(0, num_resamples, chunk):
        size = (min(chunk, num_resamples - start), num_clips)
        yield torch.randint(num_clips, size, generator=generator, dtype=torch.int32)


def resampled_runs(num_runs: int, num_resamples: int, seed: int, side: int = 0) -> Tensor:
    """The draws of runs, (resamples, num_runs) of run numbers; a function of its arguments alone.

    They have an address of their own, so that one run draws the same clips as several.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "runs", side))
    return torch.randint(num_runs, (num_resamples, num_runs), generator=generator)


def _table(numerators: Tensor, denominators: Tensor) -> Tensor:
    """(runs, clips, 2) float64."""
    shape = tuple(numerators.shape)
    if tuple(denominators.shape) != shape or len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(
            "numerators and denominators must have one shape, (clips,) or (runs, clips), none of them 0, got "
            f"{shape} and {tuple(denominators.shape)}"
        )
    return torch.stack([side.detach().cpu().double() for side in (numerators, denominators)], -1).view(-1, shape[-1], 2)


def _bootstrap(sides: Sequence[Tensor], seed: int, num_resamples: int, confidence: float) -> Interval:
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"need num_resamples >= 1 and 0 < confidence < 1, got {num_resamples} and {confidence}")
    if len({side.shape[1] for side in sides}) > 1:
        raise ValueError(f"before and after must have the same clips, got {[side.shape[1] for side in sides]}")
    values = _statistic(_resampled(sides, seed, num_resamples))
    defined = values[values.isfinite()]
    estimate = float(_statistic([side.sum((0, 1)).unsqueeze(0) for side in sides]))
    if not len(defined):
        return Interval(estimate, float("nan"), float("nan"), num_resamples)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(estimate, low, high, num_resamples - len(defined))


def _resampled(sides: Sequence[Tensor], seed: int, num_resamples: int) -> list[Tensor]:
    """Sums of every resample, (resamples, 2) for each side."""
    num_clips = sides[0].shape[1]
    # all runs of all sides in one matrix product with one draw of clips
    columns = torch.cat([run for side in sides for run in side], 1)
    sums = torch.cat([_times_drawn(clips) @ columns for clips in resampled_clips(num_clips, num_resamples, seed)])
    found = []
    for number, part in enumerate(torch.split(sums, [2 * len(side) for side in sides], 1)):
        runs = part.view(num_resamples, -1, 2)
        draws = resampled_runs(runs.shape[1], num_resamples, seed, number)
        found.append(runs.gather(1, draws.unsqueeze(-1).expand(-1, -1, 2)).sum(1))
    return found


def _times_drawn(clips: Tensor) -> Tensor:
    """How often each clip was drawn, (resamples, clips) float64: a matrix product then sums faster than a gather."""
    rows, num_clips = clips.shape
    flat = clips + torch.arange(0, rows * num_clips, num_clips, dtype=torch.int32).unsqueeze(1)
    return torch.bincount(flat.flatten(), minlength=rows * num_clips).view(rows, num_clips).double()


def _statistic(sums: Sequence[Tensor]) -> Tensor:
    """(resamples, 2) of each side -> the ratio, or the second ratio minus the first; nan for a denominator of 0."""
    ratios = [torch.where(side[:, 1] == 0, torch.nan, side[:, 0] / side[:, 1]) for side in sums]
    return ratios[0] if len(ratios) == 1 else ratios[1] - ratios[0]
