"""Pairs from judged candidates: the one with the fewest event errors against the one with the most.

video-SALMONN 2 (arXiv 2410.06682): error = (missed + incorrect + hallucinated) / events; the lower one is chosen, pairs
of too small a difference are removed. Its margin, and that the winner must not repeat itself, are our defaults
(`methods.md` 3.6 of the design).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.preferences.judges import Judge, Request

Row: TypeAlias = dict[str, Any]


class Judged(NamedTuple):
    """A candidate and its verdict."""

    row: Row
    counts: CaptionCounts | None

    @property
    def num_errors(self) -> int:
        """M + I + H."""
        assert self.counts is not None
        return self.counts.missed + self.counts.incorrect + self.counts.hallucinated

    @property
    def error(self) -> float:
        """(M + I + H) / N."""
        assert self.counts is not None
        return self.num_errors / self.counts.num_events

    @property
    def repetition(self) -> float:
        """Share of sentences that say nothing new."""
        assert self.counts is not None
        return self.counts.repeated_sentences / max(self.counts.num_sentences, 1)


def select_pairs(
    candidates: Sequence[Row], judge: Judge, margin: float = 0.05, round_index: int = 0
) -> tuple[list[Row], list[Row]]:
    """One pair of each prompt's candidates, best against worst.

    Args:
        candidates: Rows of `predict` with several candidates: a prompt's record with `response`, `finished`,
            `candidate`, `prompt_id` and `model`.
        judge: Counts their errors.
        margin: Least difference of the errors, in errors per event.
        round_index: Written into the pairs.

    Returns:
        Pairs, as overlay rows, and prompts without one: {prompt_id, key, reason}, the reason one of `one_candidate`,
        `not_judged`, `no_events`, `margin`, `winner_repeats`, `winner_unfinished`.

    Raises:
        ValueError: If the margin is negative.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be >= 0 errors per event, got {margin}")
    pairs: list[Row] = []
    dropped: list[Row] = []
    for prompt_id, group in _judged(candidates, judge).items():
        reason = _objection(group, margin)
        if reason is None:
            pairs.append(_pair(prompt_id, group, judge, round_index))
        else:
            dropped.append({"prompt_id": prompt_id, "key": group[0].row["key"], "reason": reason})
    return pairs, dropped


def best_answers(candidates: Sequence[Row], judge: Judge) -> list[Row]:
    """The answer with the fewest errors to each prompt: what sampling and a judge gain over one answer, untrained.

    It is an upper bound of the kind that needs the judge, hence the truth, at test time.

    Args:
        candidates: As for `select_pairs`; a row without `prompt_id` is one answer to the prompt of its `id`.
        judge: Counts their errors.

    Returns:
        A row of each prompt, under the prompt's own id, with `best_of` (how many it was chosen from). Of answers with
        equally many errors the one that repeats itself least is taken, of equals the first.

    Raises:
        ValueError: If a prompt has one candidate alone, or a verdict could not be read.
    """
    best: list[Row] = []
    for prompt_id, group in _judged(candidates, judge).items():
        if len(group) < 2 or any(each.counts is None for each in group):
            raise ValueError(f"prompt {prompt_id} needs two candidates or more, all of them judged; got {len(group)}")
        row = min(group, key=lambda each: (each.num_errors, each.repetition)).row
        kept = {name: value for name, value in row.items() if name not in ("prompt_id", "candidate")}
        best.append(kept | {"id": prompt_id, "best_of": len(group)})
    return best


def _judged(candidates: Sequence[Row], judge: Judge) -> dict[str, list[Judged]]:
    """The candidates of each prompt."""
    replies = judge.score([Request(row["response"], row["finished"], row) for row in candidates])
    groups: dict[str, list[Judged]] = defaultdict(list)
    for row, reply in zip(candidates, replies, strict=True):
        groups[row["prompt_id"] if "prompt_id" in row else row["id"]].append(Judged(row, reply.counts))
    return groups


def _objection(group: list[Judged], margin: float) -> str | None:
    if len(group) < 2:
        return "one_candidate"
    if any(each.counts is None for each in group):
        return "not_judged"
    if any(each.counts is not None and each.counts.num_events == 0 for each in group):
        return "no_events"  # an interval in which nothing happens: the error has no denominator
    best, worst = _extremes(group)
    if worst.error - best.error < margin or best.row["response"].strip() == worst.row["response"].strip():
        return "margin"
    if best.repetition > 0:
        return "winner_repeats"
    return None if best.row["finished"] else "winner_unfinished"


def _extremes(group: list[Judged]) -> tuple[Judged, Judged]:
    """Best and worst by error, then by repetition; of equals the earlier candidate."""
    ordered = sorted(group, key=lambda each: (each.error, each.repetition, each.row["candidate"]))
    return ordered[0], max(ordered, key=lambda each: (each.error, each.repetition))


def _pair(prompt_id: str, group: list[Judged], judge: Judge, round_index: int) -> Row:
    best, worst = _extremes(group)
    row = best.row
    kept = {name: row[name] for name in ("key", "prompt", "history", "media", "ground_truth") if row.get(name)}
    return kept | {
        "id": f"{prompt_id}/round-{round_index}",
        "chosen": best.row["response"].strip(),
        "rejected": worst.row["response"].strip(),
        "mode": "dpo",
        "round": round_index,
        "scores": {"chosen": best.error, "rejected": worst.error},
        "meta": {**row.get("meta", {}), "judge": judge.identity, "model": row.get("model")},
    }
