"""An epoch as a pure function: which rows stand in which global batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_vpo.randomness import generator

NUM_SPARES = 8


@dataclass(frozen=True)
class EpochPlan:
    """The order of a source's rows in every epoch, independent of ranks and workers.

    Args:
        num_rows: Rows of the source.
        batch_size: Rows of a global batch.
        seed: The run's seed.
        shuffle: Draw a new order for each epoch; otherwise rows keep theirs.
        data: Names the data (manifest and overlay hashes), mixed into the seed.
        rows_per_video: Up to so many rows of one video stand together where rows are shuffled, so that a batch decodes
            and encodes it once for all of them.
        videos: The video of every row; needed where `rows_per_video` is above 1.

    Raises:
        ValueError: Numbers below 1, or `rows_per_video` above 1 without the rows' videos.

    """

    num_rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    data: str = ""
    rows_per_video: int = 1
    videos: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.batch_size < 1:
            raise ValueError(f"num_rows and batch_size must be >= 1, got {self.num_rows} and {self.batch_size}")
        if self.rows_per_video < 1 or (self.rows_per_video > 1 and len(self.videos or ()) != self.num_rows):
            raise ValueError(f"rows_per_video must be >= 1, and above 1 needs every row's video: {self.rows_per_video}")

    @property
    def num_batches(self) -> int:
        """Global batches of one epoch; the last one may be short."""
        return -(-self.num_rows // self.batch_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """Global batches of an epoch, as row numbers."""
        drawn = torch.randperm(self.num_rows, generator=generator(self.seed, "plan", self.data, epoch))
        order = self._together(drawn.tolist()) if self.shuffle else list(range(self.num_rows))
        size = self.batch_size
        return [order[batch * size : (batch + 1) * size] for batch in range(self.num_batches)]

    def _together(self, drawn: list[int]) -> list[int]:
        """Rows gather by video as they are drawn; a full hand is laid down at once, what is left at the end."""
        if self.videos is None or self.rows_per_video == 1:
            return drawn
        hands: dict[str, list[int]] = {}
        order: list[int] = []
        for row in drawn:
            hand = hands.setdefault(self.videos[row], [])
            hand.append(row)
            if len(hand) == self.rows_per_video:
                order += hands.pop(self.videos[row])
        return order + [row for hand in hands.values() for row in hand]

    def spares(self, epoch: int, batch: int) -> list[int]:
        """Rows that may stand in for a batch left empty, in the order to try them."""
        draw = generator(self.seed, "spares", self.data, epoch, batch)
        return torch.randint(self.num_rows, (NUM_SPARES,), generator=draw).tolist()
