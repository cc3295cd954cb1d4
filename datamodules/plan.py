"""An epoch as a pure function: which rows stand in which global batch."""

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

    Raises:
        ValueError: Numbers below 1.

    """

    num_rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    data: str = ""

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.batch_size < 1:
            raise ValueError(f"num_rows and batch_size must be >= 1, got {self.num_rows} and {self.batch_size}")

    @property
    def num_batches(self) -> int:
        """Global batches of one epoch; the last one may be short."""
        return -(-self.num_rows // self.batch_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """Global batches of an epoch, as row numbers."""
        drawn = torch.randperm(self.num_rows, generator=generator(self.seed, "plan", self.data, epoch))
        order = drawn.tolist() if self.shuffle else list(range(self.num_rows))
        size = self.batch_size
        return [order[batch * size : (batch + 1) * size] for batch in range(self.num_batches)]

    def spares(self, epoch: int, batch: int) -> list[int]:
        """Rows that may stand in for a batch left empty, in the order to try them."""
        draw = generator(self.seed, "spares", self.data, epoch, batch)
        return torch.randint(self.num_rows, (NUM_SPARES,), generator=draw).tolist()
