"""An epoch as a pure function: which rows stand in which global batch, whatever the ranks and workers.

Shuffle the shards, cut them into slices, shuffle within windows, cut into batches of so many rows or tokens; all on
arrays of row numbers, no payload waits in a buffer. Every epoch has the same number of batches, so that a cursor over
all epochs tells its epoch by a division.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lit_vpo.randomness import generator

from .batching import Batches, Lengths, cut_by_rows, cut_by_tokens, shuffle_batches, sort_windows, split_to
from .order import Ints, draw_mix, gather_videos, mix_size, shuffle_slices, shuffle_windows

NUM_SPARES = 8
# another epoch's order may cut into a few more batches of tokens than the first one's, which sets the number
TOKEN_MARGIN = 1.02


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The order of a source's rows in every epoch, independent of ranks and workers.

    The batches of an epoch are a multiple of `world_multiple`, so that every number of ranks that divides it sees the
    same ones. To get there the largest batches are halved, of equals the latest: no row repeats, none is left out. Two
    exceptions. Where batches hold one row and cannot be halved, the last of them stay unused in this epoch. And fewer
    rows than `world_multiple` are not padded. :attr:`Batches.num_unused` counts what an epoch leaves out.

    Args:
        num_rows: Rows of the source.
        batch_size: Rows of a global batch.
        seed: The run's seed.
        shuffle: Draw a new order for each epoch; otherwise rows keep theirs.
        data: Names the data (manifest and overlay hashes), mixed into the seed.
        rows_per_video: Up to so many rows of one video stand together where rows are shuffled, so that a batch decodes
            and encodes it once for all of them.
        videos: (N,) a number for the video of every row; needed where `rows_per_video` is above 1.
        shards: (N,) a number for the shard of every row; None means one shard.
        slice_rows: Rows of a shard that stay neighbours when shards are shuffled.
        window: Rows that are shuffled among each other; a source of fewer is shuffled whole.
        tokens_per_batch: Fill a batch with rows up to so many tokens, instead of `batch_size` rows; a longer row stands
            alone. The number of batches is that of the first epochs and 2 % more; an epoch that needs more leaves some
            out.
        lengths: Tokens of every row; needed for `tokens_per_batch`.
        sort_window: Rows that are sorted by length among each other before they are cut by tokens.
        world_multiple: The number of batches is a multiple of it.
        origins: (N,) the overlay that every row comes from, where several are mixed.
        weights: The share of each overlay's rows that an epoch shows; which ones is drawn anew in each epoch.

    Raises:
        ValueError: Numbers out of range, or an array that an option needs and that is missing or of another length.

    """

    num_rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    data: str = ""
    rows_per_video: int = 1
    videos: Ints | None = None
    shards: Ints | None = None
    slice_rows: int = 1000
    window: int = 10_000
    tokens_per_batch: int | None = None
    lengths: Lengths | None = None
    sort_window: int = 2048
    world_multiple: int = 8
    origins: Ints | None = None
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        names = ("num_rows", "batch_size", "rows_per_video", "slice_rows", "window", "sort_window", "world_multiple")
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch must be >= 1 or null, got {self.tokens_per_batch}")
        self._check_arrays()
        if self.num_epoch_rows < 1:
            raise ValueError(f"weights {tuple(self.weights)} leave an epoch without rows; raise them")

    def _check_arrays(self) -> None:
        needs = {
            "videos": self.rows_per_video > 1,
            "lengths": self.tokens_per_batch is not None,
            "origins": len(self.weights) > 0,
            "shards": False,
        }
        for name, needed in needs.items():
            array = getattr(self, name)
            array = array.text if isinstance(array, Lengths) else array
            if (needed and array is None) or (array is not None and len(array) != self.num_rows):
                raise ValueError(
                    f"the plan of {self.num_rows} rows needs {name} of every row: rows_per_video above 1 needs "
                    "videos, tokens_per_batch needs lengths, weights need origins"
                )
        if any(not 0 < weight <= 1 for weight in self.weights):
            raise ValueError(
                f"a weight must lie in (0, 1], got {tuple(self.weights)}; lower the other overlays' instead"
            )

    @cached_property
    def num_epoch_rows(self) -> int:
        """Rows of one epoch: all, or those that the overlays' weights leave."""
        return self.num_rows if self.origins is None else mix_size(self.origins, self.weights)

    @cached_property
    def num_batches(self) -> int:
        """Global batches of every epoch."""
        if self.tokens_per_batch is None:
            natural = -(-self.num_epoch_rows // self.batch_size)
        else:
            # few rows are soon cut eight times, and their epochs differ most
            looked_at = range(8 if self.num_rows <= 10_000 else 1)
            natural = int(max(len(self._cut(epoch)[1]) for epoch in looked_at) * TOKEN_MARGIN)
            natural = min(natural, self.num_epoch_rows)
        multiple = self.world_multiple if self.num_epoch_rows >= self.world_multiple else 1
        padded = -(-natural // multiple) * multiple
        return padded if padded <= self.num_epoch_rows else natural // multiple * multiple

    def identity(self) -> dict[str, Any]:
        """What makes two plans over the same data equal, as plain values."""
        names = ["seed", "batch_size", "tokens_per_batch", "rows_per_video", "world_multiple"]
        names += ["slice_rows", "window", "sort_window"]
        lengths = [] if self.lengths is None else [self.lengths.visual, self.lengths.text]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(array, np.int64).tobytes() for array in lengths))
        tokens = digest.hexdigest()[:16] if self.tokens_per_batch is not None else ""
        return {name: getattr(self, name) for name in names} | {"weights": list(self.weights), "lengths_hash": tokens}

    def batches(self, epoch: int) -> Batches:
        """Global batches of an epoch, as row numbers."""
        rows, sizes = self._cut(epoch)
        sizes = split_to(sizes, self.num_batches)[: self.num_batches]
        used = int(sizes.sum())
        return Batches(rows[:used], sizes, len(rows) - used)

    def spares(self, epoch: int, batch: int) -> list[int]:
        """Rows that may stand in for a batch left empty, in the order to try them."""
        draw = generator(self.seed, "spares", self.data, epoch, batch)
        return torch.randint(self.num_rows, (NUM_SPARES,), generator=draw).tolist()

    def _cut(self, epoch: int) -> tuple[Ints, Ints]:
        """Rows in their order, and the sizes of batches that they are cut into."""
        rows = self._order(epoch)
        if self.tokens_per_batch is None:
            return rows, cut_by_rows(len(rows), self.batch_size)
        assert self.lengths is not None
        visual, text = self.lengths.visual, self.lengths.text
        if self.shuffle:
            rows = sort_windows(rows, visual[rows] + text[rows], self._units(rows), self.sort_window)
        sizes = cut_by_tokens(visual[rows], text[rows], self._units(rows), self.tokens_per_batch)
        if not self.shuffle:
            return rows, sizes
        return shuffle_batches(rows, sizes, self.sort_window, self.seed, "batches", self.data, epoch)

    def _units(self, rows: Ints) -> Ints:
        """The video of each row where neighbours share it, else every row for itself."""
        return rows if self.videos is None or self.rows_per_video == 1 else self.videos[rows]

    def _order(self, epoch: int) -> Ints:
        rows = np.arange(self.num_rows)
        if self.origins is not None:
            rows = draw_mix(self.origins, self.weights, self.seed, "mix", self.data, epoch)
        if not self.shuffle:
            return rows
        if len(rows) > self.window:
            shards = np.zeros_like(rows) if self.shards is None else self.shards[rows]
            rows = shuffle_slices(rows, shards, self.slice_rows, self.seed, "slices", self.data, epoch)
        rows = shuffle_windows(rows, self.window, self.seed, "plan", self.data, epoch)
        if self.videos is not None and self.rows_per_video > 1:
            rows = gather_videos(rows, self.videos[rows], self.rows_per_video, self.window)
        return rows
