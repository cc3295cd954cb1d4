"""In which order an epoch shows its rows: pure functions over arrays of row numbers, no object per row."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lit_vpo.randomness import generator

Ints = NDArray[np.int64]


def draw_mix(origins: Ints, weights: Sequence[float], *address: object) -> Ints:
    """Rows of one epoch of several overlays, ascending: `round(weight * rows)` of each.

    Args:
        origins: (N,) number of the overlay that each row comes from.
        weights: Share of its rows that an epoch shows, for each overlay.
        address: Of the draws, one for each overlay.

    """
    drawn = []
    for number, weight in enumerate(weights):
        rows = np.flatnonzero(origins == number)
        count = round(weight * len(rows))
        if count < len(rows):
            rows = rows[permutation(len(rows), *address, number)[:count]]
        drawn.append(rows)
    return np.sort(np.concatenate(drawn))


def mix_size(origins: Ints, weights: Sequence[float]) -> int:
    """Rows of an epoch, without drawing them."""
    counts = np.bincount(origins, minlength=len(weights))
    return sum(round(weight * int(count)) for weight, count in zip(weights, counts, strict=True))


def interleave(
    counts: Sequence[int], weights: Sequence[float], part: int, size: int | None = None
) -> list[tuple[int, int]]:
    """A part of an endless stream over several lists, as (list, element); no element stands in it twice.

    A turn of the stream shows `round(weight * count)` elements of each list, evenly spread. Each list's elements come
    in their order, the next turn goes on where it stands, and at its end it begins anew.

    Args:
        counts: Elements of each list.
        weights: In (0, 1], of each list.
        part: Parts that came before.
        size: Elements of a part, at most a turn's; None is a turn.

    """
    shown = [round(weight * count) for weight, count in zip(weights, counts, strict=True)]
    # equal fractions are equal floats, so that ties go to the earlier list
    turn = sorted(((2 * place + 1) / many, number, place) for number, many in enumerate(shown) for place in range(many))
    size = len(turn) if size is None else min(size, len(turn))
    stream = []
    for position in range(part * size, (part + 1) * size):
        turns, within = divmod(position, len(turn))
        _, number, place = turn[within]
        stream.append((number, (turns * shown[number] + place) % counts[number]))
    return stream


def shuffle_slices(rows: Ints, shards: Ints, slice_rows: int, *address: object) -> Ints:
    """Rows gathered by shard, cut into slices, the slices in a drawn order; a slice keeps its rows' order.

    Args:
        rows: (N,) row numbers.
        shards: (N,) the shard of each of them.
        slice_rows: Rows of a slice at most.
        address: Of the draw.

    """
    order = np.argsort(shards, kind="stable")
    gathered = shards[order]
    within = run_positions(gathered)
    heads = (within % slice_rows) == 0
    slices = np.cumsum(heads) - 1
    rank = permutation(int(slices[-1]) + 1, *address)
    return rows[order[np.argsort(rank[slices], kind="stable")]]


def shuffle_windows(rows: Ints, window: int, *address: object) -> Ints:
    """Rows shuffled within windows of `window` neighbours: only indices wait, and few shards are in use at a time."""
    drawn = permutation(len(rows), *address)
    return rows[drawn[np.argsort(drawn // window, kind="stable")]]


def gather_videos(rows: Ints, videos: Ints, rows_per_video: int, window: int) -> Ints:
    """Rows of one video gather as they are drawn; a full hand is laid down at once, the others as their window ends.

    Args:
        rows: (N,) row numbers in drawn order.
        videos: (N,) the video of each of them.
        rows_per_video: Rows of a full hand.
        window: Rows after which hands that are not full are laid down too.

    """
    place = np.arange(len(rows))
    groups = np.stack([place // window, videos])
    order = np.lexsort((place, groups[1], groups[0]))
    changes = np.any(groups[:, order[1:]] != groups[:, order[:-1]], axis=0)
    within = run_positions(np.concatenate([[0], np.cumsum(changes)]))
    heads = np.flatnonzero(within % rows_per_video == 0)
    sizes = np.diff(np.append(heads, len(rows)))
    full = sizes == rows_per_video
    first, last = order[heads], order[heads + sizes - 1]
    hands = np.lexsort((np.where(full, last, first), ~full, first // window))
    rank = np.empty_like(hands)
    rank[hands] = np.arange(len(hands))
    return rows[order[np.argsort(np.repeat(rank, sizes), kind="stable")]]


def run_positions(groups: Ints) -> Ints:
    """(N,) how many equal neighbours stand before each element."""
    place = np.arange(len(groups))
    starts = np.concatenate([[True], groups[1:] != groups[:-1]])
    return place - np.maximum.accumulate(np.where(starts, place, 0))


def permutation(count: int, *address: object) -> Ints:
    """A drawn order of `count` numbers; torch's generator, whose draws are the same on every machine."""
    return torch.randperm(count, generator=generator(*address)).numpy()
