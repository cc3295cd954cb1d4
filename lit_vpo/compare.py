"""Answers to the same prompts, compared: a table before/after with paired bootstrap intervals over clips and runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_vpo.generations import (
    CAPTION_STATISTICS,
    QUESTION_STATISTICS,
    Ratio,
    Row,
    finite,
    load_scorer,
    models_of,
    name_models,
    read_generations,
)
from lit_vpo.metrics.answers import is_question
from lit_vpo.metrics.bootstrap import Interval, bootstrap_ratio, paired_bootstrap, per_clip
from lit_vpo.protocols import CaptionScorer

_INTERVALS = ", intervals"  # follows the statistic's name where captions of intervals are meant
_IN_WORDS = {"words per caption", f"words per caption{_INTERVALS}"}  # every other statistic is a share


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        name: Of the statistic.
        before: Value and 95 % interval before.
        after: The same after.
        difference: After minus before, with its paired interval.
        num_rows: Captions or questions behind it.
        num_clips: Clips behind it: what is resampled.
    """

    name: str
    before: Interval
    after: Interval
    difference: Interval
    num_rows: int
    num_clips: int


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        lines: One per statistic.
        models: The models `before` and `after`: {name, hash, base} each, None for rows that name none.
        num_rows: Captions and questions of one run.
        num_clips: Their clips.
        num_runs: Files after.
        seed: Of the bootstrap.
        scorer: Its name.
    """

    lines: list[Line]
    models: dict[str, list[Any]]
    num_rows: int
    num_clips: int
    num_runs: int
    seed: int
    scorer: str


def compare(
    before: str, after: Sequence[str], scorer: str | CaptionScorer, out: str | None = None, seed: int = 0
) -> Comparison:
    """Prints a table before / after / difference, each with its 95 % bootstrap interval, and writes it.

    The intervals of the difference are paired: each resample draws the same clips for both. Several files after are
    runs of one arm with other seeds: their sums are pooled, and resamples draw runs as well as clips. A footer names
    the models, the hash of their base, the numbers of rows and clips and the seed.

    Rows with `meta.options` are questions: the answer is right if it equals `ground_truth` but for case, white space
    and full stops, and unanswered if it equals no option. All other rows are captions; those of intervals
    (`meta.scope`) have lines of their own, whose names end in ", intervals".

    Args:
        before: Generations of one model, JSONL.
        after: Generations of the other one for the same ids, a file for each of its runs.
        scorer: Caption scorer or its dotted path.
        out: Where the Markdown table goes (.md); a .json with everything goes beside it. None only prints.
        seed: Of the bootstrap.

    Raises:
        ValueError: If ids are missing on one side or stand twice, or the scorer is unknown.
    """
    if not after:
        raise ValueError(
            f"compare needs a file to compare {before} with: compare BEFORE AFTER [AFTER of other seeds ...]"
        )
    rows_before, rows_after = read_generations(before), [read_generations(path) for path in after]
    for path, rows in zip(after, rows_after, strict=True):
        _check_ids(rows_before, rows, path)
    score = load_scorer(scorer) if isinstance(scorer, str) else scorer
    found = Comparison(
        _lines(rows_before, rows_after, score, seed),
        {
            "before": models_of(rows_before.values()),
            "after": models_of(row for rows in rows_after for row in rows.values()),
        },
        num_rows=len(rows_before),
        num_clips=len({row["key"] for row in rows_before.values()}),
        num_runs=len(after),
        seed=seed,
        scorer=scorer if isinstance(scorer, str) else getattr(scorer, "__name__", ""),
    )
    footer = [*(f"{side}: {name_models(models)}" for side, models in found.models.items()), _in_words(found)]
    _print(found.lines, footer, before, after)
    if out is not None:
        _write(found, footer, Path(out).with_suffix(".md"))
    return found


def _lines(
    before: Mapping[str, Row], after: Sequence[Mapping[str, Row]], score: CaptionScorer, seed: int
) -> list[Line]:
    groups: dict[str, list[str]] = {"video": [], "interval": [], "question": []}
    for name, row in before.items():
        groups[_group(row)].append(name)
    lines: list[Line] = []
    for group, ids in groups.items():
        if not ids:
            continue
        keys = [before[name]["key"] for name in ids]
        runs: list[list[Any]] = [[rows[name] for name in ids] for rows in (before, *after)]
        statistics: Mapping[str, Ratio] = QUESTION_STATISTICS
        if group != "question":
            statistics = CAPTION_STATISTICS
            runs = [[score(row["response"], row) for row in run] for run in runs]
        ending = _INTERVALS if group == "interval" else ""
        lines += [_line(name + ending, ratio, keys, runs, seed) for name, ratio in statistics.items()]
    return lines


def _group(row: Row) -> str:
    if is_question(row):
        return "question"
    return "interval" if row.get("meta", {}).get("scope") == "interval" else "video"


def _line(name: str, ratio: Ratio, keys: Sequence[str], runs: Sequence[Sequence[Any]], seed: int) -> Line:
    before, *each = (per_clip(keys, [ratio(row) for row in run]) for run in runs)
    after = torch.stack([top for top, _ in each]), torch.stack([bottom for _, bottom in each])
    intervals = bootstrap_ratio(*before, seed), bootstrap_ratio(*after, seed), paired_bootstrap(before, after, seed)
    return Line(name, *intervals, num_rows=len(keys), num_clips=len(before[0]))


def _check_ids(before: Mapping[str, Row], after: Mapping[str, Row], path: str) -> None:
    lost, new = [n for n in before if n not in after], [n for n in after if n not in before]
    if lost or new:
        examples = ", ".join((lost + new)[:3])
        raise ValueError(
            f"{path}: {len(lost)} ids are missing after and {len(new)} before (such as {examples}); "
            "generate both from the same prompts"
        )


def _in_words(found: Comparison) -> str:
    drawn = "clips" if found.num_runs == 1 else f"clips and {found.num_runs} runs"
    return f"{found.num_rows} rows of {found.num_clips} clips; bootstrap over {drawn}, seed {found.seed}"


def _cells(line: Line) -> tuple[str, ...]:
    unit, scale = ("", 1.0) if line.name in _IN_WORDS else (" %", 100.0)
    before, after = (
        f"{scale * side.estimate:.1f}{unit} [{scale * side.low:.1f}, {scale * side.high:.1f}]"
        for side in (line.before, line.after)
    )
    ends = f"[{scale * line.difference.low:+.1f}, {scale * line.difference.high:+.1f}]"
    difference = f"{scale * line.difference.estimate:+.1f} {ends}"
    return line.name, before, after, difference, f"{line.num_rows} / {line.num_clips}"


_COLUMNS = ("", "before [95 %]", "after [95 %]", "difference [95 %]", "rows / clips")


def _markdown(lines: Sequence[Line], footer: Sequence[str]) -> str:
    rows = [_COLUMNS, ("---", "---:", "---:", "---:", "---:"), *map(_cells, lines)]
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return table + "\n" + "".join(f"- {line}\n" for line in footer)


def _in_two_lines(cell: str) -> str:
    """The interval under the value: all columns then fit 80 characters."""
    return escape(cell.replace(" [", "\n["))


def _write(found: Comparison, footer: Sequence[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_markdown(found.lines, footer), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(finite(asdict(found)), indent=1), encoding="utf-8")


def _print(lines: Sequence[Line], footer: Sequence[str], before: str, after: Sequence[str]) -> None:
    console = Console()
    console.print(f"before: {escape(before)}\nafter: {escape(', '.join(after))}", soft_wrap=True)
    table = Table(box=SIMPLE)
    for number, column in enumerate(_COLUMNS):
        table.add_column(_in_two_lines(column), justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*map(_in_two_lines, _cells(line)))
    console.print(table)
    for text in footer:
        console.print(escape(text), soft_wrap=True)
