"""The commands of ISR-DPO in stages: what `SelfRetrospectiveResampler` does within a fit, around `predict`.

For networks whose weights are sharded in training (full fine-tuning): contexts, verdicts and pairs are made between two
runs, by the same functions.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from rich.console import Console

from lit_vpo.atomic import read_lines, write_lines
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.preferences.comparisons import (
    ask_judge,
    check_enough,
    comparisons,
    judged_pairs,
    questions,
    read_replies,
    verdict_counts,
    verdict_rows,
)
from lit_vpo.preferences.contexts import (
    ContextSource,
    JudgeContexts,
    RetrospectionPrompts,
    context_prompts,
    context_rows,
    true_events,
)
from lit_vpo.preferences.judges import LongerWins, RandomJudge
from lit_vpo.preferences.registry import resolve

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Judging:
    """What an iteration's answers are judged by.

    Attributes:
        candidates: JSONL that `predict` wrote with two candidates.
        contexts: JSONL that `predict` wrote for `pairs contexts`; None where `context` needs none.
        context: Which of them is read about a video, see `JudgeContexts`.
        oracle: Dotted path of a function that gives the true description of a record's video; None takes its events.
        prompts: YAML of `RetrospectionPrompts`; None takes the defaults.
        iteration: From 1.
    """

    candidates: str
    contexts: str | None = None
    context: ContextSource = "own"
    oracle: str | None = None
    prompts: str | None = None
    iteration: int = 1

    @property
    def wordings(self) -> RetrospectionPrompts:
        """The prompts.

        Raises:
            ValueError: The file has unknown names or wrong ones.
        """
        return read_prompts(self.prompts)

    def compared(self) -> list[Row]:
        """See `comparisons`.

        Raises:
            ValueError: As there, or `context` needs a file of contexts.
        """
        needed = self.context not in ("none", "oracle")
        if needed and self.contexts is None:
            raise ValueError(f"--context {self.context} needs --contexts FILE, of predict for `pairs contexts`")
        contexts = context_rows(_read(self.contexts), self.iteration) if needed and self.contexts else {}
        oracle = resolve("oracle", self.oracle, {}) if self.oracle else true_events
        return comparisons(_read(self.candidates), JudgeContexts(self.context, contexts, oracle), self.iteration)


def read_prompts(path: str | None) -> RetrospectionPrompts:
    """Wordings from a YAML file; the defaults without one.

    Raises:
        ValueError: A name that is none of theirs, or as `RetrospectionPrompts`.
    """
    if path is None:
        return RetrospectionPrompts()
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    known = set(RetrospectionPrompts.__dataclass_fields__)
    if not isinstance(values, dict) or not values.keys() <= known:
        raise ValueError(f"{path} must name some of {', '.join(sorted(known))}, each with its text")
    if "verdicts" in values:
        values["verdicts"] = tuple(values["verdicts"])
    return RetrospectionPrompts(**values)


def write_context_prompts(candidates: str, out: str, previous: str | None, prompts: str | None) -> None:
    """Writes the overlay that asks for the contexts of an iteration's videos.

    Args:
        candidates: JSONL whose videos are meant.
        out: The overlay.
        previous: JSONL that `predict` wrote for the contexts of the iteration before; None asks for the first ones.
        prompts: See `Judging`.
    """
    before = {} if previous is None else context_rows(_read(previous), 0)
    keys = [row["key"] for row in _read(candidates)]
    rows = context_prompts(keys, before, read_prompts(prompts), "own")
    Overlay(tuple(rows)).save(out)
    anew = sum(row["context_prev"] is None for row in rows)
    Console(soft_wrap=True).print(f"{len(rows)} contexts to write, {anew} of them first ones: {out}")


def write_questions(judging: Judging, out: str) -> None:
    """Writes the overlay that asks the policy about both orders of each two answers.

    `predict` answers it (`data.predict`), or scores the two verdicts (`data.predict_questions`).

    Args:
        judging: What they are judged by.
        out: The overlay.

    Raises:
        ValueError: If no two answers differ, or as `comparisons`.
    """
    compared = judging.compared()
    rows = questions(compared, judging.wordings)
    if not rows:
        raise ValueError(f"{judging.candidates} has no two answers to compare: {_reasons(compared)}")
    Overlay(tuple(rows)).save(out)
    Console(soft_wrap=True).print(f"{len(rows) // 2} of {len(compared)} prompts to judge, in both orders: {out}")


def _reasons(compared: list[Row]) -> dict[str, int]:
    """Why comparisons are not asked about, counted."""
    reasons = [row["reason"] for row in compared if row["reason"] is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def write_judged(
    judging: Judging,
    out: str,
    replies: str | None,
    judge: str | None,
    seed: int = 0,
    min_pairs: int = 1,
    max_length_ratio: float | None = None,
) -> None:
    """Writes the pairs that both orders agree in, and prints how many there are and what gave none.

    Args:
        judging: As for `write_questions`.
        out: The overlay; all verdicts go to `<out stem>.verdicts.jsonl`, prompts without a pair to `<out
            stem>.dropped.jsonl` with their reasons.
        replies: JSONL that `predict` wrote for `write_questions`.
        judge: In its place: `random`, `longer`, or the dotted path of a `PairwiseJudge` without arguments.
        seed: Of the random judge.
        min_pairs: Fewer are refused.
        max_length_ratio: See `cap_length_ratio`; None keeps all pairs.

    Raises:
        ValueError: Both or neither of replies and judge, fewer pairs than `min_pairs`, or as `read_replies`.
    """
    if (replies is None) == (judge is None):
        raise ValueError("give --replies of the policy, or a --judge in its place")
    compared = judging.compared()
    if judge is None:
        asked, rows = questions(compared, judging.wordings), _read(str(replies))
        by = "likelihood" if any("option_logps" in row for row in rows) else "text"
        identity: Row = {"judge": "self", "by": by, "context": judging.context}
        verdicts = verdict_rows(compared, read_replies(rows, asked, judging.wordings), identity)
    else:
        other = RandomJudge(seed) if judge == "random" else resolve("judge", judge, {"longer": LongerWins})()
        verdicts = verdict_rows(compared, ask_judge(compared, other), other.identity)
    path = Path(out)
    write_lines(path.with_name(path.stem + ".verdicts.jsonl"), map(json.dumps, verdicts))
    Console(soft_wrap=True).print(verdict_counts(verdicts))
    check_enough(verdicts, min_pairs)
    pairs, dropped = judged_pairs(verdicts, judging.iteration - 1, max_length_ratio)
    write_lines(path.with_name(path.stem + ".dropped.jsonl"), map(json.dumps, dropped))
    Overlay(tuple(pairs)).save(path)


def _read(path: str) -> list[Row]:
    return [json.loads(line) for line in read_lines(Path(path)) if line.strip()]
