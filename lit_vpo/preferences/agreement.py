"""How far two judges of the same pairs of answers agree: a policy that judges itself, the exact event judge, people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torchmetrics.functional.classification import binary_cohen_kappa

from lit_vpo.metrics.answers import is_question, is_right
from lit_vpo.metrics.bootstrap import Interval, bootstrap_ratio, per_clip
from lit_vpo.preferences.pairs import lengths_differ
from lit_vpo.protocols import CaptionScorer

Row: TypeAlias = Mapping[str, Any]


class Choices(NamedTuple):
    """What two judges said of one pair of answers.

    Args:
        key: The clip that the answers are about.
        judge: The answer that the judge under test prefers, 1 or 2.
        other: The one that the other judge prefers, 1 or 2, or 0 where it sees no difference.
        length_matched: Whether the longer answer has at most 10 % more words.
    """

    key: str
    judge: int
    other: int
    length_matched: bool


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree.

    Args:
        accuracy: Share of equal choices, of the pairs that the other judge tells apart, with its 95 % interval over
            clips; nan without such a pair.
        kappa: Cohen's, of the same pairs: the agreement beyond what the two judges' own frequencies of 1 and 2 give by
            chance; 0 is chance, 1 perfect, nan where both always say the same one.
        num_pairs: Pairs that the judge under test chose from.
        num_tied: Those that the other judge does not tell apart; they count in neither number.
        num_clips: Clips behind the accuracy: what is resampled.
    """

    accuracy: Interval
    kappa: float
    num_pairs: int
    num_tied: int
    num_clips: int


def agreement(choices: Iterable[Choices], seed: int = 0) -> Agreement:
    """Agreement of two judges; ties are apart.

    Args:
        choices: One for each pair.
        seed: Of the bootstrap.
    """
    found = list(choices)
    told = [each for each in found if each.other]
    if not told:
        nan = float("nan")
        return Agreement(Interval(nan, nan, nan), nan, len(found), len(found), 0)
    sums = per_clip([each.key for each in told], [(float(each.judge == each.other), 1.0) for each in told])
    sides = torch.tensor([(each.judge - 1, each.other - 1) for each in told])
    kappa = float(binary_cohen_kappa(sides[:, 0], sides[:, 1]))
    accuracy = bootstrap_ratio(*sums, seed)
    return Agreement(accuracy, kappa, len(found), len(found) - len(told), len(sums[0]))


def exact_choices(verdicts: Iterable[Row], scorer: CaptionScorer) -> list[Choices]:
    """The choices of verdict rows beside those of the exact event judge, which prefers the answer that errs less.

    Rows without a choice are left out: the caller counts them. Errors are missed + incorrect + hallucinated events;
    both answers are held against the same events. Of a question with options the right answer is the better one.

    Args:
        verdicts: Rows with `answers`, `choice` and what the scorer needs.
        scorer: Counts an answer's errors against its row.
    """
    return [_exact(row, scorer) for row in verdicts if row["choice"] is not None]


def length_matched(first: str, second: str) -> bool:
    """Whether the longer of two texts has at most 10 % more words, as the pair filter `lengths_differ` counts."""
    return not lengths_differ({"response": first}, {"response": second})


def _exact(row: Row, scorer: CaptionScorer) -> Choices:
    first, second = (_errors(text, dict(row), scorer) for text in row["answers"])
    better = 0 if first == second else 1 if first < second else 2
    return Choices(row["key"], row["choice"], better, length_matched(*row["answers"]))


def _errors(answer: str, row: dict[str, Any], scorer: CaptionScorer) -> int:
    if is_question(row):
        return int(not is_right(row | {"response": answer}))
    counts = scorer(answer, row)
    return counts.missed + counts.incorrect + counts.hallucinated
