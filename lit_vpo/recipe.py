"""Recipes: ordered stages in one YAML, each an ordinary command that can also be run by hand.

    set: {run_dir: runs/demo, seed: 0}
    stages:
      - name: clips
        run: data world {run_dir}/train --split train --num 1500 --seed {seed}

Keys of `set` stand in braces; a brace that is meant is doubled.
"""

import json
import shlex
import string
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Stage:
    """One command.

    Args:
        name: Unique in its recipe.
        words: The command's words after `python -m lit_vpo`.
    """

    name: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command as one types it."""
        return shlex.join(("python", "-m", "lit_vpo", *self.words))


def run_recipe(file: str | Path, overrides: Mapping[str, str] | None = None, only: Sequence[str] = ()) -> None:
    """Runs a recipe's stages in order, each in a process of its own, and stops at the first that fails.

    Every command is printed before it runs; `<run_dir>/recipe.jsonl` gets one line per stage that ended: its name,
    command, seconds and exit code.

    Args:
        file: The YAML.
        overrides: Values for keys of `set`.
        only: Names of stages to run, in the recipe's order; empty means all.

    Raises:
        ValueError: If the recipe is malformed or an override or a name in `only` is unknown; nothing has run then.
        SystemExit: With the exit code of the stage that failed; its name is printed.
    """
    values, stages = read_recipe(file, overrides)
    names = [stage.name for stage in stages]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"{file}: no stage {', '.join(map(repr, unknown))}; its stages are: {', '.join(names)}")
    run_dir = Path(values["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    chosen = [stage for stage in stages if not only or stage.name in only]
    start = time.monotonic()
    for number, stage in enumerate(chosen, start=1):
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        # the stage writes to the same terminal from its own process
        print(f"\n[{number}/{len(chosen)}] {stage.name} (elapsed {minutes}:{seconds:02d})\n{stage.command}", flush=True)
        code = _run(stage, run_dir)
        if code != 0:
            print(f"stage {stage.name!r} failed with exit code {code}", file=sys.stderr, flush=True)
            raise SystemExit(code if code > 0 else 128 - code)
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    print(f"\n{len(chosen)} stages done in {minutes}:{seconds:02d}", flush=True)


def read_recipe(file: str | Path, overrides: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[Stage]]:
    """Reads a recipe and fills in its keys.

    Args:
        file: The YAML.
        overrides: Values for keys of `set`.

    Returns:
        The values of `set`, as text, and the stages.

    Raises:
        ValueError: If the recipe is malformed; the message names the file and the place.
    """
    recipe = _load(Path(file))
    values = _values(recipe.get("set") or {}, overrides or {}, file)
    rows = recipe.get("stages")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file}: `stages` must be a list of at least one stage")
    stages = [_stage(row, values, f"{file}, stage {number}") for number, row in enumerate(rows, start=1)]
    names = [stage.name for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: two stages are called {', '.join(twice)}; names must be unique")
    return values, stages


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Replaces each `{key}` by its value; `{{` and `}}` are braces. Nothing else of `str.format` is understood.

    Raises:
        ValueError: If a key is unknown or a brace stands alone.
    """
    parts = []
    for literal, key, spec, conversion in string.Formatter().parse(text):
        parts.append(literal)
        if key is None:
            continue
        if key not in values or spec or conversion:
            known = ", ".join(values)
            raise ValueError(f"{text!r} uses the unknown key {key!r}; known: {known}; write {{{{ and }}}} for braces")
        parts.append(values[key])
    return "".join(parts)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(recipe, dict) or not set(recipe) <= {"set", "stages"}:
        raise ValueError(f"{path}: a recipe is a mapping of `set` (key: value) and `stages` (a list), nothing else")
    return recipe


def _values(given: Any, overrides: Mapping[str, str], file: str | Path) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        raise ValueError(f"{file}: `set` must map keys to single values, got {given!r}")
    values = {str(key): _text(value) for key, value in given.items()}
    unknown = sorted(set(overrides) - set(values))
    if unknown:
        raise ValueError(f"{file} has no key {', '.join(map(repr, unknown))} to set; known: {', '.join(values)}")
    values.update(overrides)
    if not values.get("run_dir"):
        raise ValueError(f"{file}: `set` must hold run_dir, the folder that the stages write to")
    return values


def _text(value: str | int | float) -> str:
    # YAML's true is Python's True, which no command understands
    return str(value).lower() if isinstance(value, bool) else str(value)


def _stage(row: Any, values: Mapping[str, str], where: str) -> Stage:
    if not isinstance(row, dict) or set(row) != {"name", "run"}:
        raise ValueError(f"{where}: needs `name` and `run`, and nothing else, got {row!r}")
    name, run = row["name"], row["run"]
    if not isinstance(name, str) or not name or not isinstance(run, str) or not run.strip():
        raise ValueError(f"{where}: `name` and `run` must be text, got {row!r}")
    try:
        # split first: a value with a space stays one word
        words = tuple(substitute(word, values) for word in shlex.split(run))
    except ValueError as error:
        raise ValueError(f"{where} ({name}): {error}") from error
    return Stage(name, words)


def _run(stage: Stage, run_dir: Path) -> int:
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "lit_vpo", *stage.words]).returncode
    row = {
        "stage": stage.name,
        "command": stage.command,
        "seconds": round(time.monotonic() - start, 3),
        "exit_code": code,
    }
    with (run_dir / "recipe.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return code
