"""Each skill of a model on its own: the answers of every task scored, with bootstrap intervals."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_vpo.generations import (
    CAPTION_STATISTICS,
    QUESTION_STATISTICS,
    Row,
    finite,
    load_scorer,
    models_of,
    name_models,
    read_generations,
)
from lit_vpo.metrics.answers import is_question, is_right
from lit_vpo.metrics.bootstrap import Interval, bootstrap_ratio, per_clip
from lit_vpo.metrics.lengths import word_lengths
from lit_vpo.protocols import CaptionScorer

_LENGTHS = {"p10": "words, 10th percentile", "p90": "words, 90th percentile", "spread": "words, p90 / p10"}


@dataclass(frozen=True)
class Line:
    """One statistic of one task.

    Args:
        task: The rows' `meta.task`, empty where they have none.
        name: Of the statistic.
        value: On the rows themselves.
        ends: Its 95 % interval; None where it is no ratio.
        is_share: Whether it is printed in per cent.
        num_rows: Rows behind it.
        num_clips: Clips behind it: what is resampled.
    """

    task: str
    name: str
    value: float
    ends: tuple[float, float] | None
    is_share: bool
    num_rows: int
    num_clips: int


def score(
    files: Sequence[str], scorer: str | CaptionScorer, out: str | None = None, seed: int = 0
) -> dict[str, list[Line]]:
    """Prints, for each file and task, how good the answers are, and writes the tables.

    Rows with `meta.options` are questions: accuracy by text, beside the level of chance. Rows without a video
    (`media.video` null) have no events to be checked against: the share that equals `ground_truth`. All others are
    captions: errors by the scorer, and their lengths.

    Args:
        files: Generations, JSONL.
        scorer: Caption scorer or its dotted path.
        out: Where the Markdown goes (.md); a .json with everything goes beside it. None only prints.
        seed: Of the bootstrap over clips.

    Returns:
        The lines of each file.

    Raises:
        ValueError: If a file is missing, empty or has an id twice, or the scorer is unknown.
    """
    judge = load_scorer(scorer) if isinstance(scorer, str) else scorer
    scored: dict[str, list[Line]] = {}
    texts: list[str] = []
    models: dict[str, list[Any]] = {}
    for file in files:
        rows = list(read_generations(file).values())
        scored[file], models[file] = _lines(rows, judge, seed), models_of(rows)
        footer = f"{name_models(models[file])}; {len(rows)} rows; bootstrap over clips, seed {seed}"
        _print(file, scored[file], footer)
        texts.append(_markdown(file, scored[file], footer))
    if out is not None:
        path = Path(out).with_suffix(".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts), encoding="utf-8")
        content = {
            file: {"models": models[file], "seed": seed, "lines": [asdict(line) for line in lines]}
            for file, lines in scored.items()
        }
        path.with_suffix(".json").write_text(json.dumps(finite(content), indent=1), encoding="utf-8")
    return scored


def _lines(rows: Iterable[Row], judge: CaptionScorer, seed: int) -> list[Line]:
    tasks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        tasks[row.get("meta", {}).get("task", "")].append(row)
    lines: list[Line] = []
    for task, found in tasks.items():
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in found:
            groups[_kind(row)].append(row)
        for kind, group in groups.items():
            lines += _captions(task, group, judge, seed) if kind == "caption" else _texts(task, kind, group, seed)
    return lines


def _kind(row: Row) -> str:
    media = row.get("media", {})
    text_only = "video" in media and media["video"] is None
    return "question" if is_question(row) else "text" if text_only else "caption"


def _captions(task: str, rows: Sequence[Row], judge: CaptionScorer, seed: int) -> list[Line]:
    counts = [judge(row["response"], row) for row in rows]
    lines = []
    for name, ratio in CAPTION_STATISTICS.items():
        ratios = [ratio(each) for each in counts]
        lines.append(_ratio(task, name, rows, ratios, seed, is_share=name != "words per caption"))
    lengths = word_lengths([row["response"] for row in rows])
    clips = len({row["key"] for row in rows})
    return lines + [
        Line(task, name, float(lengths[key]), None, False, len(rows), clips) for key, name in _LENGTHS.items()
    ]


def _texts(task: str, kind: str, rows: Sequence[Row], seed: int) -> list[Line]:
    if kind == "text":
        return [_ratio(task, "equals the truth", rows, [(float(is_right(row)), 1) for row in rows], seed)]
    statistics: Mapping[str, Any] = {
        **QUESTION_STATISTICS,
        "chance": lambda row: (1 / len(row["meta"]["options"]), 1),
    }
    return [_ratio(task, name, rows, [of(row) for row in rows], seed) for name, of in statistics.items()]


def _ratio(
    task: str,
    name: str,
    rows: Sequence[Row],
    ratios: Sequence[tuple[float, float]],
    seed: int,
    is_share: bool = True,
) -> Line:
    sums = per_clip([row["key"] for row in rows], ratios)
    found: Interval = bootstrap_ratio(*sums, seed)
    return Line(task, name, found.estimate, (found.low, found.high), is_share, len(rows), len(sums[0]))


_COLUMNS = ("task", "", "value [95 %]", "rows / clips")


def _cells(line: Line) -> tuple[str, ...]:
    unit, scale = (" %", 100.0) if line.is_share else ("", 1.0)
    ends = "" if line.ends is None else f" [{scale * line.ends[0]:.1f}, {scale * line.ends[1]:.1f}]"
    return line.task, line.name, f"{scale * line.value:.1f}{unit}{ends}", f"{line.num_rows} / {line.num_clips}"


def _markdown(file: str, lines: Sequence[Line], footer: str) -> str:
    rows = [_COLUMNS, ("---", "---", "---:", "---:"), *map(_cells, lines)]
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return f"{file}\n\n{table}\n- {footer}\n"


def _print(file: str, lines: Sequence[Line], footer: str) -> None:
    console = Console()
    table = Table(title=escape(file), title_justify="left")
    for number, column in enumerate(_COLUMNS):
        table.add_column(escape(column), justify="left" if number < 2 else "right")
    for number, line in enumerate(lines):
        last = number + 1 == len(lines) or lines[number + 1].task != line.task
        table.add_row(*map(escape, _cells(line)), end_section=last)
    console.print(table)
    console.print(escape(footer), soft_wrap=True)
