"""Verdict rows: what a judge said of two answers, a JSON line for each judged prompt, whether a pair came of it or not.

    {key, id, prompt, iteration, context, context_prev, answers: [y1, y2], finished: [bool, bool], choice: 1 | 2 | null,
     reason: null | equal | empty | unfinished | unparsable | inconsistent, raw: [reply, reply], choices, scores,
     lengths, judge, model, sampling} and what else the prompt's record has (ground_truth, events, meta)

`raw` and `choices` hold the replies where y1 was shown first and where y2 was; choices are the answers' own numbers,
null for a reply that could not be read. In a run the rows of iteration k lie in `<run_dir>/rounds/<k>/`, a file for
each rank.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from lit_vpo.atomic import read_lines

Row: TypeAlias = dict[str, Any]

_PART = re.compile(r"verdicts\.(\d+)-(\d+)\.jsonl")


def read_verdicts(path: str | Path) -> list[Row]:
    """The rows of one file.

    Raises:
        ValueError: If there is no file, a line is no verdict row (the message names it), or a prompt was judged twice
            in one iteration.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a file of verdicts, such as RUN_DIR/rounds/1/verdicts.0-1.jsonl")
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1) if line.strip()]
    _check_once(rows, path)
    return rows


def round_verdicts(folder: str | Path, world_size: int | None = None) -> list[Row]:
    """The rows of one round, of all ranks.

    Args:
        folder: `<run_dir>/rounds/<k>`.
        world_size: Whose files to read where several numbers of ranks have left some: a run that was killed while it
            judged may go on with fewer ranks.

    Raises:
        ValueError: If there is none, a rank's file is missing, or nobody says which of several to read; as
            `read_verdicts`.
    """
    folder = Path(folder)
    parts = {place: path for path in folder.glob("verdicts.*.jsonl") if (place := _place(path)) is not None}
    if not parts:
        raise ValueError(f"{folder} holds no verdicts.<rank>-<world>.jsonl; a resampler that judges writes them")
    world = _world(folder, {world for _, world in parts}, world_size)
    missing = [f"verdicts.{rank}-{world}.jsonl" for rank in range(world) if (rank, world) not in parts]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: did the resampler judge on every rank, to the end?")
    rows = [row for rank in range(world) for row in read_verdicts(parts[rank, world])]
    _check_once(rows, folder)
    return rows


def run_verdicts(run_dir: str | Path) -> dict[int, list[Row]]:
    """The rows of a run by iteration: those of its rounds, or of the `*.verdicts.jsonl` of staged iterations.

    Raises:
        ValueError: If there are neither, or they cannot be read.
    """
    run_dir = Path(run_dir)
    files = run_dir.glob("rounds/*/verdicts.*.jsonl")
    rows = [row for folder in sorted({path.parent for path in files}) for row in round_verdicts(folder)]
    rows = rows or [row for path in sorted(run_dir.glob("*.verdicts.jsonl")) for row in read_verdicts(path)]
    if not rows:
        raise ValueError(
            f"{run_dir} has no verdicts, neither rounds/<k>/verdicts.<rank>-<world>.jsonl (give the --run_dir of a "
            "`fit` whose resampler judges) nor <name>.verdicts.jsonl"
        )
    _check_once(rows, run_dir)
    iterations = sorted({row["iteration"] for row in rows})
    return {iteration: [row for row in rows if row["iteration"] == iteration] for iteration in iterations}


def _world(folder: Path, found: set[int], wanted: int | None) -> int:
    if wanted is not None and wanted in found:
        return wanted
    if len(found) == 1:
        return min(found)
    raise ValueError(
        f"{folder} holds verdicts of runs with {', '.join(map(str, sorted(found)))} ranks; remove those that are old"
    )


def _place(path: Path) -> tuple[int, int] | None:
    found = _PART.fullmatch(path.name)
    return (int(found[1]), int(found[2])) if found else None


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error}); if the run was killed there, resume it") from error
    wrong = _wrong(row)
    if wrong:
        raise ValueError(f"{where}: no verdict row; wrong or missing: {', '.join(wrong)}")
    found: Row = row
    return found


def _wrong(row: Any) -> list[str]:
    """The fields that are not what others rely on."""
    if not isinstance(row, dict):
        return ["not an object"]
    choices = row.get("choices")
    return [
        *(name for name in ("key", "id") if not isinstance(row.get(name), str)),
        *(["iteration"] if type(row.get("iteration")) is not int else []),
        *(["answers"] if not _are_two(row.get("answers"), lambda each: isinstance(each, str)) else []),
        *(["choice"] if "choice" not in row or not _is_choice(row["choice"]) else []),
        *(["reason"] if "reason" not in row or (row["reason"] is None) != (row.get("choice") is not None) else []),
        *(["choices"] if not _are_two(choices, _is_choice) else []),
        *(["judge"] if not isinstance(row.get("judge"), dict) else []),
    ]


def _is_choice(value: Any) -> bool:
    return value is None or (type(value) is int and value in (1, 2))


def _are_two(values: Any, is_right: Any) -> bool:
    return isinstance(values, list) and len(values) == 2 and all(map(is_right, values))


def _check_once(rows: Iterable[Row], where: Path) -> None:
    counts = Counter((row["iteration"], row["id"]) for row in rows)
    twice = [f"{name} (iteration {iteration})" for (iteration, name), count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"{where}: {len(twice)} prompts are judged twice: {', '.join(twice[:3])}; keep one row of each"
        )
