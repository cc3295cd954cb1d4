"""Where a rank stands in the row of global batches that runs through all epochs; pure arithmetic, no data."""

from typing import Any


class Position:
    """A cursor over global batches, the same on every rank.

    A step takes one batch for each rank: rank r takes batch `cursor + r`, then the cursor moves by `world`. Where the
    ranks divide an epoch's batches, the steps run through all epochs without a gap, also when a run resumes with other
    ranks at an odd cursor: the epoch's last step then takes its missing batches from the next epoch. Where they do not,
    the batches that do not fill an epoch's last step stay unused.

    Args:
        num_batches: Global batches of an epoch.
        rank: This process.
        world: Processes.
        accumulate: Batches of a rank in one optimizer step; they count from the epoch's first batch, and the epoch's
            last optimizer step may be short.

    Attributes:
        cursor: Global batches taken, over all epochs.
        done: Batches that this rank has had in the current epoch.

    Raises:
        ValueError: A rank out of range, or more ranks than batches.

    """

    def __init__(self, num_batches: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in 0..{world - 1}, got {rank}")
        if num_batches < world:
            raise ValueError(f"{num_batches} batches do not give {world} ranks one each; lower batch_size")
        self.num_batches, self.rank, self.world, self.accumulate = num_batches, rank, world, accumulate
        self.cursor = self.done = 0
        self._loaded = False
        self._anchor()

    @property
    def epoch(self) -> int:
        """Epoch that the cursor stands in."""
        return self.cursor // self.num_batches

    @property
    def in_epoch(self) -> int:
        """Batches of that epoch before the cursor."""
        return self.cursor % self.num_batches

    @property
    def num_unused(self) -> int:
        """Batches at the end of every epoch that do not fill a step."""
        return self.num_batches % self.world

    @property
    def steps_left(self) -> int:
        """Steps from the cursor to the end of its epoch."""
        left = self.num_batches - self.in_epoch
        return left // self.world if self.num_unused else -(-left // self.world)

    @property
    def length(self) -> int:
        """Steps of this epoch: those done and those left."""
        return self.done + self.steps_left

    def begin(self) -> None:
        """Start an iteration: of a new epoch, unless one that was loaded goes on."""
        if not self._loaded:
            self.done = 0
        self._anchor()

    def start(self) -> None:
        """The first batch of the iteration is asked for: a position loaded before it has been used."""
        self._loaded = False
        self._anchor()

    def advance(self) -> None:
        """Take one step; call it before its batch is handed over."""
        self._taken += 1
        if self.steps_left > 1:
            self.cursor, self.done = self.cursor + self.world, self.done + 1
        else:
            self.cursor, self.done = self._after_last(), 0

    def state(self, trained: int | None = None) -> dict[str, int]:
        """Where to go on: after the last whole optimizer step, so that no gradient is lost; the same on every rank.

        Args:
            trained: Batches of this epoch that have been trained on; None takes those handed over.

        """
        first, before = self._first
        taken = self._taken if trained is None else min(max(trained - before, 0), self._taken)
        if taken == self._taken and self.done == 0:  # nothing was taken, or the epoch is at its end
            return {"cursor": self.cursor, "done": 0}
        taken = max(taken - (before + taken) % self.accumulate, 0)
        return {"cursor": first + taken * self.world, "done": before + taken}

    def load(self, state: dict[str, Any]) -> None:
        """Jump to a saved position, which another number of ranks may have reached."""
        self.cursor, self.done = int(state["cursor"]), int(state["done"])
        if self.steps_left == 0:
            self.cursor, self.done = self._after_last(), 0
        self._loaded = True
        self._anchor()

    def _anchor(self) -> None:
        """Remember where the iteration begins: cursor and batches done; states count from there."""
        self._first, self._taken = (self.cursor, self.done), 0

    def _after_last(self) -> int:
        return (self.epoch + 1) * self.num_batches if self.num_unused else self.cursor + self.world
