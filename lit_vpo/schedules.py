"""Pure functions from a step to a value, and where rounds begin and end."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

Shape = Literal["constant", "linear", "cosine"]
SHAPES: tuple[Shape, ...] = ("constant", "linear", "cosine")


class Round(NamedTuple):
    """One round; steps are counted from 0, over the whole run."""

    number: int  # rounds before it
    begin: int  # its first step
    end: int  # the first step after it


@dataclass(frozen=True)
class RoundPlan:
    """Where rounds begin and end, in optimizer steps.

    Args:
        steps: Of one round after the other, at least one of each; the last number holds for all rounds that follow.

    Raises:
        ValueError: If there is no number, or one below 1.
    """

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise ValueError(
                f"round_steps must be >= 1 (optimizer steps of every round, or a list of them), or null, got "
                f"{list(self.steps)}"
            )

    @classmethod
    def of(cls, steps: int | Sequence[int]) -> "RoundPlan":
        """Rounds of so many steps each, or a list of rounds."""
        return cls((steps,) if isinstance(steps, int) else tuple(steps))

    def at(self, step: int) -> Round:
        """The round that a step belongs to; after n steps, `at(n).number` rounds have ended."""
        begins = [0, *accumulate(self.steps)]
        index = bisect_right(begins, step) - 1
        if index < len(self.steps):
            return Round(index, begins[index], begins[index + 1])
        more, last = divmod(step - begins[-1], self.steps[-1])
        return Round(index + more, step - last, step - last + self.steps[-1])

    def done(self, steps: int) -> float:
        """Rounds that have ended after so many steps, and the part of the next one."""
        number, begin, end = self.at(steps)
        return number + (steps - begin) / (end - begin)


def warmup_then(shape: Shape, warmup_steps: int, max_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise, then a decay to 0 at the last step.

    Args:
        shape: `constant` stays at 1 after the rise, `linear` and `cosine` fall to 0.
        warmup_steps: Steps of the rise; step 0 takes 1 / warmup_steps, so that no step is lost.
        max_steps: Steps of the run; only `constant` works without (-1).

    Returns:
        A function of the step (0-based) in 0..1.

    Raises:
        ValueError: If the shape is unknown or the steps do not fit it.
    """
    if shape not in SHAPES:
        raise ValueError(f"schedule must be one of {', '.join(SHAPES)}, got {shape!r}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be >= 0, got {warmup_steps}")
    if shape != "constant" and max_steps < 1:
        raise ValueError(f"the {shape} schedule needs the number of steps: set trainer.max_steps")
    if shape != "constant" and warmup_steps >= max_steps:
        raise ValueError(
            f"warmup_steps ({warmup_steps}) must be less than trainer.max_steps, and than the steps of every round, "
            f"got {max_steps}"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if shape == "constant":
            return 1.0
        done = min((step - warmup_steps) / (max_steps - warmup_steps), 1.0)
        return 1.0 - done if shape == "linear" else (1.0 + math.cos(math.pi * done)) / 2

    return factor


def warmup_in_rounds(shape: Shape, warmup_steps: int, rounds: RoundPlan) -> Callable[[int], float]:
    """As `warmup_then`, begun anew in every round: it falls to 0 at a round's end.

    Args:
        shape: See `warmup_then`.
        warmup_steps: See there.
        rounds: Which step lies in which round.

    Raises:
        ValueError: As `warmup_then`, where the rise does not fit into the shortest round.
    """
    factors = {steps: warmup_then(shape, warmup_steps, steps) for steps in sorted(rounds.steps)}

    def factor(step: int) -> float:
        _, begin, end = rounds.at(step)
        return factors[end - begin](step - begin)

    return factor
