"""What a run folder's `recipe.jsonl` says: which stages are done, and from what a file was made.

Each stage gets one line when it begins and one when it ends, with its command and the hashes of what the command read.
A stage is known by its `out`, one without by its command, so that recipes, arms and seeds with one `run_dir` share
what is made.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lit_vpo.content import content_hash
from lit_vpo.recipe_file import Stage

Row: TypeAlias = dict[str, Any]
State = Literal["new", "done", "cut", "stale", "changed"]


def read_log(run_dir: Path) -> list[Row]:
    """The rows of `<run_dir>/recipe.jsonl`, none if there is no such file.

    Raises:
        ValueError: If a line is no JSON or lacks what this version writes.
    """
    path = run_dir / "recipe.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove the broken line, or {run_dir} to begin anew") from error
    if not all({"out", "command", "inputs", "exit_code"} <= row.keys() for row in rows):
        raise ValueError(f"{path} was written by another version; take another run_dir, or remove {run_dir}")
    return rows


def log_row(stage: Stage, run_dir: Path, row: Row) -> None:
    """Appends a line about a stage."""
    facts = {"stage": stage.label, "out": _text(stage.out), "command": stage.command}
    with (run_dir / "recipe.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**facts, **row}) + "\n")


def last_row(stage: Stage, log: Sequence[Row]) -> Row | None:
    """The last line about a stage, None if it never began."""
    key, value = ("command", stage.command) if stage.out is None else ("out", _text(stage.out))
    return next((row for row in reversed(log) if row[key] == value), None)


def state_of(stage: Stage, log: Sequence[Row]) -> State:
    """Whether a stage has to run.

    Returns:
        `new` if it never began; `done`; `cut` if it began and did not end, or failed; `changed` if it ended and its
        command or what it read has changed since, so that what it made is in question; `stale` if it has to begin again
        and nothing is at stake: it was cut and what it reads has changed, or it has no `out` any more.
    """
    row = last_row(stage, log)
    if row is None:
        return "new"
    same = row["command"] == stage.command and not changed_inputs(row)
    if row["exit_code"] != 0:
        return "cut" if same else "stale"
    if stage.out is None:
        return "done" if same else "stale"
    if not stage.out.exists():
        return "stale"
    return "done" if same else "changed"


def changed_inputs(row: Row) -> list[str]:
    """What a stage read that is no longer what it was."""
    return [path for path, known in row["inputs"].items() if content_hash(path) != known]


def made_from(log: Sequence[Row], paths: Sequence[str]) -> dict[str, Any]:
    """From what files were made.

    Args:
        log: The rows of a run folder.
        paths: Files that stages of it made.

    Returns:
        `commands`: a hash over all commands on the way and what they read first; `files`: what no stage made
        (configurations, data from elsewhere), with hashes.

    Raises:
        ValueError: If no finished stage made one of the files.
    """
    commands: set[str] = set()
    files: dict[str, str] = {}
    left = list(paths)
    while left:
        path = left.pop()
        row = _maker(log, path)
        if row is None:
            raise ValueError(f"no finished stage of the recipe has {path} as its `out`; name it there")
        if row["command"] in commands:
            continue
        commands.add(row["command"])
        files |= {name: known for name, known in row["inputs"].items() if _maker(log, name) is None}
        left += [name for name in row["inputs"] if _maker(log, name) is not None]
    digest = hashlib.sha256(json.dumps([sorted(commands), sorted(files.items())]).encode())
    return {"commands": digest.hexdigest()[:16], "files": dict(sorted(files.items()))}


def _maker(log: Sequence[Row], path: str) -> Row | None:
    """The last finished stage whose `out` is the path or holds it."""
    place = Path(path).resolve()
    for row in reversed(log):
        if row["exit_code"] == 0 and row["out"] is not None and place.is_relative_to(Path(row["out"]).resolve()):
            return row
    return None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
