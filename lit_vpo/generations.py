"""Generations, the JSON lines that `predict` writes: what is read from them, and which ratios score a row."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from lit_vpo.atomic import read_lines
from lit_vpo.metrics.answers import is_answered, is_right
from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.preferences.registry import resolve
from lit_vpo.protocols import CaptionScorer

Row: TypeAlias = dict[str, Any]
Ratio: TypeAlias = Callable[[Any], tuple[float, float]]
"""Numerator and denominator that one row, or the counts of one caption, adds to a statistic."""

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
    "question accuracy": lambda row: (float(is_right(row)), 1),
    "questions unanswered": lambda row: (float(not is_answered(row)), 1),
}


def read_generations(path: str | Path) -> dict[str, Row]:
    """The rows of a file by their ids.

    Raises:
        ValueError: If there is no file, no row, a line that is no answer, or an id stands twice.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; write it with: python -m lit_vpo predict")
    lines = enumerate(read_lines(Path(path)), start=1)
    rows = [_answer(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    found = {row["id"]: row for row in rows}
    if not rows or len(found) < len(rows):
        raise ValueError(
            f"{path} has {len(rows)} rows with {len(found)} different ids; it needs rows, and ids once each"
        )
    return found


def _answer(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}); a file that was cut is written anew by predict") from error
    missing = [name for name in ("key", "id", "response", "finished") if not isinstance(row, dict) or name not in row]
    if missing:
        raise ValueError(f"{where}: no answer of predict, which has {', '.join(missing)}")
    return cast(Row, row)


def load_scorer(name: str) -> CaptionScorer:
    """A caption scorer by dotted path, such as `lit_vpo.datamodules.motion_world.score_caption`.

    Raises:
        ValueError: If there is none of that name.
    """
    return resolve("caption scorer", name, dict[str, CaptionScorer]())


def models_of(rows: Iterable[Row]) -> list[Any]:
    """The different `model` entries of rows: {name, hash, base}, None for rows that name none."""
    models = {json.dumps(row.get("model"), sort_keys=True) for row in rows}
    return [json.loads(model) for model in sorted(models)]


def name_models(models: Iterable[Mapping[str, str] | None]) -> str:
    """Models in words: name, hash of the weights, hash of the frozen base."""
    texts = (
        "unnamed"
        if model is None
        else f"{model.get('name')} (weights {model.get('hash')}, base {model.get('base', 'unknown')})"
        for model in models
    )
    return "; ".join(texts)


def finite(value: Any) -> Any:
    """A value for JSON, which knows no nan and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
