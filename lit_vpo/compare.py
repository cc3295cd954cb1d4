"""Two models' answers to the same prompts, compared: a table before/after with paired bootstrap intervals."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_vpo.metrics.bootstrap import Interval, bootstrap_ratio, paired_bootstrap
from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.preferences.registry import resolve
from lit_vpo.protocols import CaptionScorer

Row = dict[str, Any]
Ratio = Callable[[Any], tuple[float, float]]

CAPTION_STATISTICS: dict[str, Callable[[CaptionCounts], tuple[float, float]]] = {
    "order error": lambda c: (c.discordant_pairs, c.matched_pairs),
    "total event error": lambda c: (c.missed + c.incorrect + c.hallucinated, c.num_events),
    "missed": lambda c: (c.missed, c.num_events),
    "incorrect": lambda c: (c.incorrect, c.num_events),
    "hallucinated": lambda c: (c.hallucinated, c.num_events),
    "repetition": lambda c: (float(c.repeated_sentences > 0), 1),
    "words per caption": lambda c: (c.num_words, 1),
}
QUESTION_STATISTICS: dict[str, Callable[[Row], tuple[float, float]]] = {
    "question accuracy": lambda row: (float(_plain(row["response"]) == _plain(row["ground_truth"])), 1),
    "questions unanswered": lambda row: (float(_plain(row["response"]) not in map(_plain, row["meta"]["options"])), 1),
}
_IN_WORDS = {"words per caption"}  # every other statistic is a share


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


def compare(before: str, after: str, scorer: str | CaptionScorer, out: str | None = None, seed: int = 0) -> list[Line]:
    """Prints a table before / after / difference with 95 % paired bootstrap intervals, and writes it.

    Rows with `meta.options` are questions: the answer is right if it equals `ground_truth` but for case, white space
    and full stops, and unanswered if it equals no option. All other rows are captions.

    Args:
        before: Generations of one model, JSONL.
        after: Generations of the other one for the same ids.
        scorer: Caption scorer or its dotted path.
        out: Where the Markdown table goes (.md); a .json with everything goes beside it. None only prints.
        seed: Of the bootstrap.

    Raises:
        ValueError: If ids are missing on one side or stand twice, or the scorer is unknown.
    """
    rows_before, rows_after = _read(before), _read(after)
    _check_ids(rows_before, rows_after)
    score = load_scorer(scorer) if isinstance(scorer, str) else scorer
    lines = _lines(rows_before, rows_after, score, seed)
    _print(lines, before, after)
    if out is not None:
        path = Path(out).with_suffix(".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_markdown(lines), encoding="utf-8")
        facts = {"seed": seed, "scorer": scorer if isinstance(scorer, str) else getattr(scorer, "__name__", "")}
        models = {"before": _models(rows_before), "after": _models(rows_after)}
        content = {"num_rows": len(rows_before), **facts, "models": models, "lines": [asdict(line) for line in lines]}
        path.with_suffix(".json").write_text(json.dumps(_finite(content), indent=1), encoding="utf-8")
    return lines


def load_scorer(name: str) -> CaptionScorer:
    """A caption scorer by dotted path, such as `lit_vpo.datamodules.motion_world.score_caption`.

    Raises:
        ValueError: If there is none of that name.
    """
    return resolve("caption scorer", name, dict[str, CaptionScorer]())


def _lines(before: Mapping[str, Row], after: Mapping[str, Row], score: CaptionScorer, seed: int) -> list[Line]:
    questions = [name for name, row in before.items() if row.get("meta", {}).get("options")]
    captions = [name for name in before if name not in set(questions)]
    lines: list[Line] = []
    for ids, statistics in ((captions, CAPTION_STATISTICS), (questions, QUESTION_STATISTICS)):
        if ids:
            keys = [before[name]["key"] for name in ids]
            sides: list[list[Any]] = [[rows[name] for name in ids] for rows in (before, after)]
            if statistics is CAPTION_STATISTICS:
                sides = [[score(row["response"], row) for row in side] for side in sides]
            lines += [_line(name, ratio, keys, sides, seed) for name, ratio in statistics.items()]
    return lines


def _line(name: str, ratio: Ratio, keys: Sequence[str], sides: Sequence[Sequence[Any]], seed: int) -> Line:
    before, after = (_per_clip(keys, [ratio(each) for each in side]) for side in sides)
    intervals = bootstrap_ratio(*before, seed), bootstrap_ratio(*after, seed), paired_bootstrap(before, after, seed)
    return Line(name, *intervals, num_rows=len(keys), num_clips=len(before[0]))


def _per_clip(keys: Sequence[str], ratios: Sequence[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Sums over the rows of each clip, (clips,) each: rows of one clip are not independent."""
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    sums = torch.zeros(len(place), 2, dtype=torch.float64)
    sums.index_add_(0, torch.tensor([place[key] for key in keys]), torch.tensor(ratios, dtype=torch.float64))
    return sums[:, 0], sums[:, 1]


def _read(path: str) -> dict[str, Row]:
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; write it with: python -m lit_vpo predict")
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    found = {row["id"]: row for row in rows}
    if not rows or len(found) < len(rows):
        raise ValueError(
            f"{path} has {len(rows)} rows with {len(found)} different ids; it needs rows, and ids once each"
        )
    return found


def _check_ids(before: Mapping[str, Row], after: Mapping[str, Row]) -> None:
    lost, new = [n for n in before if n not in after], [n for n in after if n not in before]
    if lost or new:
        examples = ", ".join((lost + new)[:3])
        raise ValueError(
            f"{len(lost)} ids are missing after and {len(new)} before (such as {examples}); "
            "generate both from the same prompts"
        )


def _plain(text: str) -> str:
    return "".join(text.lower().replace(".", " ").split())


def _models(rows: Mapping[str, Row]) -> list[Any]:
    models = {json.dumps(row.get("model"), sort_keys=True) for row in rows.values()}
    return [json.loads(model) for model in sorted(models)]


def _finite(value: Any) -> Any:
    """JSON knows no nan: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(line: Line) -> tuple[str, ...]:
    unit, scale = ("", 1.0) if line.name in _IN_WORDS else (" %", 100.0)
    ends = f"[{scale * line.difference.low:+.1f}, {scale * line.difference.high:+.1f}]"
    values = (f"{scale * side.estimate:.1f}{unit}" for side in (line.before, line.after))
    return (
        line.name,
        *values,
        f"{scale * line.difference.estimate:+.1f} {ends}",
        f"{line.num_rows} / {line.num_clips}",
    )


_COLUMNS = ("", "before", "after", "difference [95 %]", "rows / clips")


def _markdown(lines: Sequence[Line]) -> str:
    rows = [_COLUMNS, ("---", "---:", "---:", "---:", "---:"), *map(_cells, lines)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _print(lines: Sequence[Line], before: str, after: str) -> None:
    table = Table(title=f"before: {before}   after: {after}", title_justify="left")
    for number, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(cell.replace("[", r"\[") for cell in _cells(line)))
    Console().print(table)
