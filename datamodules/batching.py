"""Cut an epoch's rows into global batches: so many rows, or so many tokens; pure functions over integer arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .order import Ints, permutation


@dataclass(frozen=True, eq=False)
class Lengths:
    """What a row costs, in tokens.

    Attributes:
        visual: (N,) tokens of the row's videos; rows of one video that stand together in a batch share them.
        text: (N,) tokens of the prompt and of all responses.

    """

    visual: Ints
    text: Ints


class Batches:
    """Batches of one epoch, as two arrays: 1,000,000 rows take 8 MB.

    Args:
        rows: (N,) row numbers, batch after batch.
        sizes: (B,) rows of each batch.
        num_unused: Rows of the epoch that stand in no batch.

    """

    def __init__(self, rows: Ints, sizes: Ints, num_unused: int = 0) -> None:
        self.rows, self.ends, self.num_unused = rows, np.cumsum(sizes), num_unused

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, batch: int) -> list[int]:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        start = self.ends[batch - 1] if batch else 0
        rows: list[int] = self.rows[start : self.ends[batch]].tolist()
        return rows

    def __iter__(self) -> Iterator[list[int]]:
        return (self[batch] for batch in range(len(self)))


def cut_by_rows(num_rows: int, batch_size: int) -> Ints:
    """Sizes of batches of `batch_size` rows; the last one may be short."""
    sizes = np.full(-(-num_rows // batch_size), batch_size)
    sizes[-1] -= int(sizes.sum()) - num_rows
    return sizes


def cut_by_tokens(visual: Ints, text: Ints, videos: Ints, budget: int) -> Ints:
    """Sizes of batches that hold as many of the next rows as fit; a row above the budget stands alone.

    Args:
        visual: (N,) visual tokens of the rows in their order; counted once for neighbours of one video in a batch.
        text: (N,) their tokens of text.
        videos: (N,) their videos.
        budget: Tokens of a batch.

    """
    new = np.concatenate([[True], videos[1:] != videos[:-1]])
    total = np.cumsum(text + np.where(new, visual, 0))
    starts, start, done = [], 0, 0
    while start < len(text):
        starts.append(start)
        # a video that began in the batch before is encoded again in this one
        again = 0 if new[start] else int(visual[start])
        start = max(start + 1, int(np.searchsorted(total, done + budget - again, side="right")))
        done = int(total[start - 1])
    return np.diff(np.append(starts, len(text)))


def sort_windows(rows: Ints, lengths: Ints, units: Ints, window: int) -> Ints:
    """Rows sorted by length within windows of `window` neighbours, so that those of a batch are about as long.

    Args:
        rows: (N,) row numbers.
        lengths: (N,) tokens of each of them.
        units: (N,) equal for neighbours that must stay together.
        window: Rows of a window.

    """
    heads = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    sizes = np.diff(np.append(heads, len(rows)))
    order = np.lexsort((heads, np.add.reduceat(lengths, heads), heads // window))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rows[np.argsort(np.repeat(rank, sizes), kind="stable")]


def shuffle_batches(rows: Ints, sizes: Ints, window: int, *address: object) -> tuple[Ints, Ints]:
    """Batches in a drawn order within each window, so that no window goes from short to long."""
    starts = np.cumsum(sizes) - sizes
    drawn = permutation(len(sizes), *address)
    order = drawn[np.argsort(starts[drawn] // window, kind="stable")]
    sizes, starts = sizes[order], starts[order]
    shift = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return rows[np.arange(len(rows)) + shift], sizes


def split_to(sizes: Ints, count: int) -> Ints:
    """Sizes of `count` batches: the largest are halved, of equals the latest, until there are as many.

    Nothing repeats and nothing is left out. Batches of one row cannot be halved: there may be fewer than `count`.
    """
    while (short := count - len(sizes)) > 0 and sizes.max() > 1:
        latest_largest = np.lexsort((-np.arange(len(sizes)), -sizes))[:short]
        # a batch below half of the largest waits: the halves of the largest come before it
        chosen = np.sort(latest_largest[2 * sizes[latest_largest] > sizes.max()])
        halves = sizes[chosen] // 2
        sizes = sizes.copy()
        sizes[chosen] -= halves
        sizes = np.insert(sizes, chosen + 1, halves)
    return sizes
