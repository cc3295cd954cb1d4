"""Judges of two answers: what they are asked, what they answer, and those that need no model (controls)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lit_vpo.preferences.judges.verdicts import Place
from lit_vpo.randomness import seed_of


@dataclass(frozen=True)
class Duel:
    """Two answers in one of their two orders.

    Attributes:
        prompt: What was asked.
        context: Description of the video that the judge may read; None gives none.
        answers: The first and the second.
        record: Of the prompt.
    """

    prompt: str
    context: str | None
    answers: tuple[str, str]
    record: dict[str, Any] = field(default_factory=dict)


class Opinion(NamedTuple):
    """A judge's answer to a duel."""

    choice: Place | None  # the place of the better answer; None if it named none
    raw: str | None  # the reply as the judge gave it
    scores: tuple[float, float] | None = None  # log-likelihood of the verdict for each place


@runtime_checkable
class PairwiseJudge(Protocol):
    """Prefers one of two answers; a class of one's own is named by its dotted path."""

    @property
    def identity(self) -> dict[str, Any]:
        """What stands beside its verdicts."""

    def compare(self, duels: Sequence[Duel]) -> list[Opinion]:
        """One opinion on each duel, in their order. Both orders of two answers are asked."""


class RandomJudge:
    """Draws the better answer: a control, with as many pairs as a judge that is always consistent.

    Args:
        seed: With the record's id and the two texts the address of a draw, whatever their order.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @property
    def identity(self) -> dict[str, Any]:
        """Its seed."""
        return {"judge": "random", "seed": self.seed}

    def compare(self, duels: Sequence[Duel]) -> list[Opinion]:
        """See `PairwiseJudge`."""
        return [Opinion(self._drawn(duel), None) for duel in duels]

    def _drawn(self, duel: Duel) -> Place:
        texts = sorted(duel.answers)
        winner = texts[seed_of(self.seed, "judge", duel.record.get("id"), *texts) % 2]
        return 1 if winner == duel.answers[0] else 2


class LongerWins:
    """Prefers the answer with more words; a control, for what a bias towards length does. Equals have no verdict."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"judge": "longer"}

    def compare(self, duels: Sequence[Duel]) -> list[Opinion]:
        """See `PairwiseJudge`."""
        return [Opinion(_longer(*(len(answer.split()) for answer in duel.answers)), None) for duel in duels]


def _longer(first: int, second: int) -> Place | None:
    return None if first == second else 1 if first > second else 2
