"""Whether a judge prefers long answers, and whether it is one to rely on: what self-judging inflates unseen.

The numbers of ISR-DPO's Figures 4 and 5 (arXiv 2406.11280: words of the chosen answers, |chosen| / |rejected|) and of
the judging itself, from verdict rows (`lit_vpo.preferences.verdict_rows`). Words are parts between white space, as in
`word_lengths`, unless another rule is named.
"""

import math
import re
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, TypeAlias

from .captions import asked_events

Row: TypeAlias = Mapping[str, Any]

_TERM = re.compile(r"\w+(?:['-]\w+)*")
_SENTENCE_END = re.compile(r"[.!?;]+")


def verbosity_metrics(rows: Iterable[Row]) -> dict[str, float]:
    """Lengths of the answers that a judge prefers, and how steadily it judges.

    Pairs are the rows with a choice, before any rule drops some of them: the numbers describe the judge. A mean over
    nothing is nan.

    Args:
        rows: Verdict rows of one round, of all ranks.

    Returns:
        `verdicts` and `pairs` (how many), and means over pairs: `chosen_words`, `rejected_words`, `length_ratio` (words
        of chosen over words of rejected, pair by pair; inf if a rejected answer has none), `longer_wins` (share whose
        chosen answer has more words, of the pairs whose answers differ in length), `equal_lengths` (share of the
        others), `unsupported_words` (see `unsupported_words`, over pairs whose truth is known), `repetition` (share of
        chosen answers that say a sentence twice). Of the rows that a judge was asked about: `parse_rate` (share of
        replies that could be read), `first_place` (share of these that name the answer shown first; 0.5 is no position
        bias) and `order_consistency` (share of rows with both replies read that name the same answer in both orders).

    Raises:
        ValueError: If a row asks about an interval and its events have no times.
    """
    rows = list(rows)
    pairs = [(row, *_pair(row)) for row in rows if row["choice"] is not None]
    words = [(len(chosen.split()), len(rejected.split())) for _, chosen, rejected in pairs]
    unsupported = [unsupported_words(chosen, row) for row, chosen, _ in pairs]
    return {
        "verdicts": float(len(rows)),
        "pairs": float(len(pairs)),
        "chosen_words": _mean(chosen for chosen, _ in words),
        "rejected_words": _mean(rejected for _, rejected in words),
        "length_ratio": _mean(chosen / rejected if rejected else math.inf for chosen, rejected in words),
        "longer_wins": _mean(chosen > rejected for chosen, rejected in words if chosen != rejected),
        "equal_lengths": _mean(chosen == rejected for chosen, rejected in words),
        "unsupported_words": _mean(count for count in unsupported if count is not None),
        "repetition": _mean(repeats(chosen) for _, chosen, _ in pairs),
        **_steadiness([row["choices"] for row in rows if _was_asked(row)]),
    }


def unsupported_words(answer: str, record: Row) -> int | None:
    """Words of an answer that stand nowhere in what its record says is true.

    Here a word is a run of letters and digits (inner apostrophes and hyphens belong to it), without case; each
    occurrence counts. Supported are the words of `ground_truth` and of the texts of the events that the prompt asks
    about. Nothing is stemmed and articles count too, so the number compares rounds of one data set; a caption scorer's
    `CaptionCounts.unsupported_words` knows what sentences mean.

    Args:
        answer: The text.
        record: With `ground_truth` (str), `events` ({text, start_s, end_s}), both or neither.

    Returns:
        Their number; None where the record has neither.

    Raises:
        ValueError: If it asks about an interval and an event has no times.
    """
    if record.get("ground_truth") is None and record.get("events") is None:
        return None
    truth = [record.get("ground_truth") or "", *(event["text"] for event in asked_events(record))]
    supported = {word for text in truth for word in _terms(text)}
    return sum(word not in supported for word in _terms(answer))


def repeats(answer: str) -> bool:
    """Whether a sentence stands twice in a text, but for case and white space."""
    sentences = [" ".join(part.lower().split()) for part in _SENTENCE_END.split(answer)]
    said = [sentence for sentence in sentences if sentence]
    return len(set(said)) < len(said)


def _pair(row: Row) -> tuple[str, str]:
    """Chosen and rejected."""
    answers: list[str] = row["answers"]
    return answers[row["choice"] - 1], answers[2 - row["choice"]]


def _was_asked(row: Row) -> bool:
    """Whether a judge was: not about equal or empty answers, and about unfinished ones only where it said something."""
    return row["reason"] not in ("equal", "empty") and (row["reason"] != "unfinished" or row["choices"] != [None, None])


def _steadiness(choices: list[list[int | None]]) -> dict[str, float]:
    """Of the choices of both orders: the answers' numbers, so in the second order answer 2 was shown first."""
    named_first = [choice == shown for both in choices for choice, shown in zip(both, (1, 2), strict=True) if choice]
    return {
        "parse_rate": _mean(choice is not None for both in choices for choice in both),
        "order_consistency": _mean(first == second for first, second in choices if first and second),
        "first_place": _mean(named_first),
    }


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else math.nan
