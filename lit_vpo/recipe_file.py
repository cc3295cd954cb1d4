"""A recipe's YAML, read: each stage once for every arm and seed that its command really differs for.

    set: {run_dir: runs/rounds, seed: "0,1,2", round_steps: 40}
    arms:
      rounds: {}
      one_round: {round_steps: 240, seed: 0}
    stages:
      - name: clips
        run: data world {run_dir}/train --split train --num 1500
        out: "{run_dir}/train"
      - name: dpo
        run: fit -c dpo.yaml --run_dir {run_dir}/{arm}-{seed} --model.init_args.round_steps {round_steps}
        out: "{run_dir}/{arm}-{seed}"
        launch: torchrun --nproc_per_node 2

Keys of `set` stand in braces; a brace that is meant is doubled. An arm is a name, `{arm}`, with values of its own for
keys of `set`; what is given on the command line overrides both. `seed` may hold several numbers with commas between:
`{seed}` is one of them, `{seeds}` is all as they are written, and a word with `{*seed}` stands once for each
(`after-{*seed}.jsonl`). A stage whose command is the same for several arms or seeds is one stage and runs once.

`out` is the file or folder under `run_dir` that the stage makes; it may be left out. `launch` is what starts Python,
for example `torchrun` with its options.
"""

import re
import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Values: TypeAlias = dict[str, str]
_EACH_SEED = "*seed"


@dataclass(frozen=True)
class Stage:
    """One command.

    Args:
        name: Its name in the recipe.
        words: The command's words after `python -m lit_vpo`.
        out: The file or folder that it makes; None if it makes none, or many.
        launch: The words before `-m lit_vpo`.
        label: The name with the arms and seeds that it is for, where it is not for all.
    """

    name: str
    words: tuple[str, ...]
    out: Path | None = None
    launch: tuple[str, ...] = ("python",)
    label: str = ""

    @property
    def command(self) -> str:
        """The command as one types it."""
        return shlex.join((*self.launch, "-m", "lit_vpo", *self.words))

    @property
    def resumes(self) -> bool:
        """Whether the command goes on from what a cut run left."""
        asked = any(pair == ("--ckpt_path", "last") for pair in zip(self.words, self.words[1:], strict=False))
        return asked and self.out is not None and any((self.out / "checkpoints").glob("*.ckpt"))


def read_recipe(
    file: str | Path,
    overrides: Mapping[str, str] | None = None,
    seeds: str | None = None,
    arms: Sequence[str] = (),
) -> tuple[Path, list[Stage]]:
    """Reads a recipe and fills in its keys.

    Args:
        file: The YAML.
        overrides: Values for keys of `set`, for all arms.
        seeds: Numbers with commas between, for all arms; None takes those of the file.
        arms: Names of the arms to take; empty takes all.

    Returns:
        `run_dir`, and the stages in the file's order, those of one name by arm and seed.

    Raises:
        ValueError: If the recipe is malformed; the message names the file and the place.
    """
    recipe = _load(Path(file))
    settings = _settings(recipe, overrides or {}, seeds, arms, file)
    rows = recipe.get("stages")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file}: `stages` must be a list of at least one stage")
    stages: list[Stage] = []
    for number, row in enumerate(rows, start=1):
        found = _instances(row, settings, f"{file}, stage {number}")
        if found[0].name in {stage.name for stage in stages}:
            raise ValueError(f"{file}: two stages are called {found[0].name}; names must be unique")
        stages += found
    _refuse_shared_outs(stages, file)
    return Path(settings[0]["run_dir"]), stages


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
    if not isinstance(recipe, dict) or not set(recipe) <= {"set", "arms", "stages"}:
        raise ValueError(
            f"{path}: a recipe is a mapping of `set` (key: value), `arms` (name: values) and `stages` (a list), "
            "nothing else"
        )
    return recipe


def _settings(
    recipe: Mapping[str, Any], overrides: Mapping[str, str], seeds: str | None, chosen: Sequence[str], file: str | Path
) -> list[Values]:
    """The keys and their values, once for each arm and each of its seeds."""
    given = _values(recipe.get("set") or {}, f"{file}: `set`")
    if "seed" in overrides:
        raise ValueError("give the seeds with --seeds 0,1,2 instead of --set seed=...")
    if seeds is not None and "seed" not in given:
        raise ValueError(f"{file} has no key 'seed' in `set`, so --seeds has nothing to choose")
    _refuse_unknown(overrides, given, str(file))
    given_last = dict(overrides) if seeds is None else {**overrides, "seed": seeds}
    found = []
    for arm in _arms(recipe, given, chosen, file):
        values = {**given, **arm, **given_last}
        if not values.get("run_dir"):
            raise ValueError(f"{file}: `set` must hold run_dir, the folder that the stages write to")
        found += [{**values, **seed} for seed in _seeds(values, file)]
    return found


def _arms(recipe: Mapping[str, Any], given: Values, chosen: Sequence[str], file: str | Path) -> list[Values]:
    rows = recipe.get("arms", {})
    if not isinstance(rows, dict) or not all(re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) for name in rows):
        raise ValueError(f"{file}: `arms` must map names of letters, digits, - and _ to values, got {rows!r}")
    rows = {str(name): row for name, row in rows.items()}
    unknown = [name for name in chosen if name not in rows]
    if unknown:
        raise ValueError(f"{file}: no arm {', '.join(map(repr, unknown))}; its arms are: {', '.join(rows) or 'none'}")
    found = []
    for name, row in rows.items():
        values = _values(row or {}, f"{file}: arm {name}")
        _refuse_unknown(values, {key: value for key, value in given.items() if key != "run_dir"}, f"{file}: arm {name}")
        if not chosen or name in chosen:
            found.append({**values, "arm": name})
    return found or [{}]


def _seeds(values: Values, file: str | Path) -> list[Values]:
    if "seed" not in values:
        return [{}]
    seeds = values["seed"].split(",")
    if not all(re.fullmatch(r"[0-9]+", seed) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"{file}: seeds are numbers with commas between, each once, got {values['seed']!r}")
    return [{"seed": seed, "seeds": values["seed"]} for seed in seeds]


def _refuse_unknown(given: Mapping[str, str], known: Mapping[str, str], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{where} has no key {', '.join(map(repr, unknown))} to set; known: {', '.join(known)}")


def _values(given: Any, where: str) -> Values:
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        raise ValueError(f"{where} must map keys to single values, got {given!r}")
    taken = sorted({"arm", "seeds"} & set(given))
    if taken:
        raise ValueError(f"{where}: the key {taken[0]!r} is filled in by the recipe itself; take another name")
    # YAML's true is Python's True, which no command understands
    return {str(key): str(value).lower() if isinstance(value, bool) else str(value) for key, value in given.items()}


def _instances(row: Any, settings: Sequence[Values], where: str) -> list[Stage]:
    """A row of the file as the different commands that it becomes."""
    served: dict[Stage, list[Values]] = {}
    for values in settings:
        served.setdefault(_stage(row, values, where), []).append(values)
    return [replace(stage, label=_label(stage.name, some, settings)) for stage, some in served.items()]


def _label(name: str, some: Sequence[Values], settings: Sequence[Values]) -> str:
    parts = []
    for key in ("arm", "seed"):
        mine, every = (dict.fromkeys(values.get(key, "") for values in group) for group in (some, settings))
        if mine != every:
            parts.append(f"{key} {', '.join(mine)}")
    return f"{name} ({', '.join(parts)})" if parts else name


def _stage(row: Any, values: Values, where: str) -> Stage:
    optional = {"out", "launch"}
    if not isinstance(row, dict) or not {"name", "run"} <= set(row) <= {"name", "run"} | optional:
        raise ValueError(f"{where}: needs `name` and `run`, and nothing else but `out` and `launch`, got {row!r}")
    if not all(isinstance(value, str) and value.strip() for value in row.values()):
        raise ValueError(f"{where}: `name`, `run`, `out` and `launch` must be text, got {row!r}")
    try:
        words, launch = _words(row["run"], values), _words(row.get("launch", "python"), values)
        out = Path(substitute(row["out"], values)) if "out" in row else None
    except ValueError as error:
        raise ValueError(f"{where} ({row['name']}): {error}") from error
    run_dir = Path(values["run_dir"]).resolve()
    if out is not None and run_dir not in out.resolve().parents:
        raise ValueError(
            f"{where} ({row['name']}): `out` is removed before a stage runs anew; {out} is not in {run_dir}"
        )
    return Stage(row["name"], words, out, launch)


def _words(text: str, values: Values) -> tuple[str, ...]:
    words: list[str] = []
    for word in shlex.split(text):  # split first: a value with a space stays one word
        each = any(key == _EACH_SEED for _, key, *_ in string.Formatter().parse(word)) and "seeds" in values
        choices = [{_EACH_SEED: seed} for seed in values["seeds"].split(",")] if each else [{}]
        words += [substitute(word, {**values, **choice}) for choice in choices]
    return tuple(words)


def _refuse_shared_outs(stages: Sequence[Stage], file: str | Path) -> None:
    makers: dict[Path, Stage] = {}
    for stage in stages:
        if stage.out is None:
            continue
        other = makers.setdefault(stage.out.resolve(), stage)
        if other is not stage:
            raise ValueError(
                f"{file}: {stage.out} is made by {other.label} and by {stage.label}, with other commands; "
                "let {arm}, {seed} or what differs stand in `out`"
            )
