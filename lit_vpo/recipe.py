"""Recipes: ordered stages in one YAML, each an ordinary command that can also be run by hand.

    set: {run_dir: runs/demo, seed: 0}
    stages:
      - name: clips
        run: data world {run_dir}/train --split train --num 1500 --seed {seed}
        out: "{run_dir}/train"

Keys of `set` stand in braces; a brace that is meant is doubled. `out` is optional: the file or folder under `run_dir`
that the stage makes.

A recipe launched again goes on where it stopped. `<run_dir>/recipe.jsonl` gets one line when a stage begins and one
when it ends; a stage is done if its last line there holds the same command, the exit code 0, and stands after the last
lines of all earlier stages, and its `out` is still there. Done stages are not run again; from the first that runs on,
all run. Commands are compared, not the files that they read: after a change to a configuration name its stage with
`--only` (named stages always run; the next launch of the whole recipe then runs what comes after them), remove what the
stage made, or remove `run_dir`.

A stage that the recipe has begun before starts clean: its `out` is removed first. The one exception is a training that
was cut: a command with `--ckpt_path last` whose `out` holds a checkpoint goes on from it, if neither the command nor
anything before it has changed since. An `out` that the recipe never began to make is left alone.
"""

import json
import shlex
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

State = Literal["new", "done", "cut", "changed"]


@dataclass(frozen=True)
class Stage:
    """One command.

    Args:
        name: Unique in its recipe.
        words: The command's words after `python -m lit_vpo`.
        out: The file or folder that it makes; None if it makes none, or many.
    """

    name: str
    words: tuple[str, ...]
    out: Path | None = None

    @property
    def command(self) -> str:
        """The command as one types it."""
        return shlex.join(("python", "-m", "lit_vpo", *self.words))

    @property
    def resumes(self) -> bool:
        """Whether the command goes on from what a cut run left."""
        asked = any(pair == ("--ckpt_path", "last") for pair in zip(self.words, self.words[1:], strict=False))
        return asked and self.out is not None and any((self.out / "checkpoints").glob("*.ckpt"))


def run_recipe(file: str | Path, overrides: Mapping[str, str] | None = None, only: Sequence[str] = ()) -> None:
    """Runs a recipe's stages in order, each in a process of its own, and stops at the first that fails.

    Every command is printed before it runs; stages that were done before are named and left out.

    Args:
        file: The YAML.
        overrides: Values for keys of `set`.
        only: Names of stages to run even if they are done, in the recipe's order; empty means all that are not.

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
        state = state_of(stage, names[: names.index(stage.name)], read_log(run_dir))
        if state == "done" and not only:
            print(f"[{number}/{len(chosen)}] done before: {stage.name}", flush=True)
            continue
        # the stage writes to the same terminal from its own process
        print(f"\n[{number}/{len(chosen)}] {stage.name} (elapsed {_elapsed(start)})\n{stage.command}", flush=True)
        _make_room(stage, state)
        code = _run(stage, run_dir)
        if code != 0:
            print(f"stage {stage.name!r} failed with exit code {code}", file=sys.stderr, flush=True)
            raise SystemExit(code if code > 0 else 128 - code)
    print(f"\n{len(chosen)} stages done in {_elapsed(start)}", flush=True)


def state_of(stage: Stage, earlier: Sequence[str], log: Sequence[Mapping[str, Any]]) -> State:
    """What the log of a run folder says about a stage.

    Args:
        stage: The stage.
        earlier: Names of the stages before it.
        log: The rows of `recipe.jsonl`.

    Returns:
        `new` if it never began, `changed` if its command is another one, an earlier stage has run since or what it made
        is gone, `done`, or `cut` if it began and did not end, or failed.
    """
    last = max((place for place, row in enumerate(log) if row["stage"] == stage.name), default=None)
    if last is None:
        return "new"
    if log[last]["command"] != stage.command or any(row["stage"] in earlier for row in log[last:]):
        return "changed"
    if log[last]["exit_code"] != 0:
        return "cut"
    return "done" if stage.out is None or stage.out.exists() else "changed"


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `<run_dir>/recipe.jsonl`, none if there is no such file.

    Raises:
        ValueError: If a line is no JSON.
    """
    path = run_dir / "recipe.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove the broken line, or {run_dir} to begin anew") from error


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
    if not isinstance(row, dict) or not {"name", "run"} <= set(row) <= {"name", "run", "out"}:
        raise ValueError(f"{where}: needs `name` and `run`, and nothing else but `out`, got {row!r}")
    if not all(isinstance(value, str) and value.strip() for value in row.values()):
        raise ValueError(f"{where}: `name`, `run` and `out` must be text, got {row!r}")
    try:
        # split first: a value with a space stays one word
        words = tuple(substitute(word, values) for word in shlex.split(row["run"]))
        out = Path(substitute(row["out"], values)) if "out" in row else None
    except ValueError as error:
        raise ValueError(f"{where} ({row['name']}): {error}") from error
    run_dir = Path(values["run_dir"]).resolve()
    if out is not None and run_dir not in out.resolve().parents:
        raise ValueError(
            f"{where} ({row['name']}): `out` is removed before a stage runs anew; {out} is not in {run_dir}"
        )
    return Stage(row["name"], words, out)


def _make_room(stage: Stage, state: State) -> None:
    """Removes what an earlier launch of the stage made, unless the stage goes on from it."""
    if stage.out is None or state == "new" or (state == "cut" and stage.resumes):
        return
    if stage.out.is_dir() and not stage.out.is_symlink():
        shutil.rmtree(stage.out)
    else:
        stage.out.unlink(missing_ok=True)


def _run(stage: Stage, run_dir: Path) -> int:
    start = time.monotonic()
    row = {"stage": stage.name, "command": stage.command, "seconds": None, "exit_code": None}
    _log(row, run_dir)
    code = subprocess.run([sys.executable, "-m", "lit_vpo", *stage.words]).returncode
    _log({**row, "seconds": round(time.monotonic() - start, 3), "exit_code": code}, run_dir)
    return code


def _log(row: Mapping[str, Any], run_dir: Path) -> None:
    with (run_dir / "recipe.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _elapsed(start: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02d}"
