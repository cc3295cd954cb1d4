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

    Attributes:
        cursor: Global batches taken, over all epochs.
        done: Batches that this rank has had in the current epoch, as Lightning counts them.

    Raises:
        ValueError: A rank out of range, or more ranks than batches.

    """

    def __init__(self, num_batches: int, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in 0..{world - 1}, got {rank}")
        if num_batches < world:
            raise ValueError(f"{num_batches} batches do not give {world} ranks one each; lower batch_size")
        self.num_batches, self.rank, self.world = num_batches, rank, world
        self.cursor = self.done = 0
        self._ended = self._resumed = False

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
        """Steps of this epoch: those done, as Lightning counts them, and those left."""
        return self.steps_left if self._ended and not self._resumed else self.done + self.steps_left

    def begin(self) -> None:
        """Start an iteration: a new epoch for Lightning, unless a loaded one goes on."""
        if not self._resumed:
            self.done, self._ended = 0, False

    def start(self) -> None:
        """The first batch of the iteration is asked for: a position loaded before it has been used."""
        self._ended = self._resumed = False

    def advance(self) -> None:
        """Take one step; call it before its batch is handed over."""
        last = self.steps_left == 1
        self.done += 1
        if last and self.num_unused:
            self.cursor = (self.epoch + 1) * self.num_batches
        else:
            self.cursor += self.world
        self._ended = last

    def state(self) -> dict[str, Any]:
        """The cursor, and how Lightning counts: plain numbers, the same on every rank."""
        return {"cursor": self.cursor, "done": self.done, "ended": self._ended}

    def load(self, state: dict[str, Any]) -> None:
        """Jump to a saved position, which another number of ranks may have reached."""
        self.cursor, self.done, self._ended = int(state["cursor"]), int(state["done"]), bool(state["ended"])
        if self.steps_left == 0:
            self.cursor, self._ended = (self.epoch + 1) * self.num_batches, True
        # a finished epoch's count is forgotten where it reaches the next one's length, as Lightning does on restart;
        # where fewer ranks go on, it does not, and goes on counting from there
        if self._ended and self.done >= self.steps_left:
            self.done = 0
        self._resumed = True
