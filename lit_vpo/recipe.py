"""Recipes: ordered stages in one YAML (`recipe_file.py`), each an ordinary command that can also be run by hand.

A recipe launched again goes on where it stopped. `<run_dir>/recipe.jsonl` remembers each stage's command and the
content hashes of the files and folders that it names and does not write. A stage that ended, with the same command, the
same inputs and its `out` still there, is not run again, whichever recipe, arm or seed of that `run_dir` asks for it.

A finished stage whose command or inputs have changed since is refused, because what it made would be removed: as far as
that is known already before anything runs, else when its turn comes. It runs again with `--only` or after its `out` was
removed; a stage without an `out` just runs again. What a configuration names inside itself is not followed: its own
bytes count.

A stage that the recipe has begun before starts clean: its `out` is removed first. The one exception is a training that
was cut: a command with `--ckpt_path last` whose `out` holds a checkpoint goes on from it, if neither the command nor
its inputs have changed since. An `out` that the recipe never began to make is left alone.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_vpo.content import named_inputs
from lit_vpo.recipe_file import Stage, read_recipe
from lit_vpo.recipe_log import Row, State, changed_inputs, last_row, log_row, read_log, state_of


def run_recipe(
    file: str | Path,
    overrides: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    seeds: str | None = None,
    arms: Sequence[str] = (),
) -> None:
    """Runs a recipe's stages in order, each in a process of its own, and stops at the first that fails.

    Every command is printed, with a word about those that were done before.

    Args:
        file: The YAML.
        overrides: Values for keys of `set`.
        only: Names of stages to run even if they are done, in the recipe's order; empty means all that are not.
        seeds: Numbers with commas between instead of the recipe's `seed`.
        arms: Names of the arms to run; empty means all.

    Raises:
        ValueError: If the recipe is malformed, a name or key is unknown (nothing has run then), or what a finished
            stage was made from has changed.
        SystemExit: With the exit code of the stage that failed; its name is printed.
    """
    run_dir, stages = read_recipe(file, overrides, seeds, arms)
    names = list(dict.fromkeys(stage.name for stage in stages))
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"{file}: no stage {', '.join(map(repr, unknown))}; its stages are: {', '.join(names)}")
    chosen = [stage for stage in stages if not only or stage.name in only]
    if not only:
        _refuse_changed(_changed_for_sure(chosen, read_log(run_dir)), read_log(run_dir))
    run_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for number, stage in enumerate(chosen, start=1):
        state = state_of(stage, read_log(run_dir))
        skips = state == "done" and not only
        title = f"done before: {stage.label}" if skips else f"{stage.label} (elapsed {_elapsed(start)})"
        # the stage writes to the same terminal from its own process
        print(f"\n[{number}/{len(chosen)}] {title}\n{stage.command}", flush=True)
        if skips:
            continue
        if state == "changed" and not only:
            _refuse_changed([stage], read_log(run_dir))
        _make_room(stage, state)
        code = _run(stage, run_dir)
        if code != 0:
            print(f"stage {stage.label!r} failed with exit code {code}", file=sys.stderr, flush=True)
            raise SystemExit(code if code > 0 else 128 - code)
    print(f"\n{len(chosen)} stages done in {_elapsed(start)}", flush=True)


def _changed_for_sure(stages: Sequence[Stage], log: Sequence[Row]) -> list[Stage]:
    """Finished stages that no stage which is still to run can bring back to what they were made from."""
    remade: list[Path] = []
    found = []
    for stage in stages:
        state, row = state_of(stage, log), last_row(stage, log)
        if row is not None and state == "changed":
            paths = [Path(path).resolve() for path in changed_inputs(row)]
            settled = [path for path in paths if not any(path.is_relative_to(out) for out in remade)]
            found += [stage] if settled or row["command"] != stage.command else []
        elif state != "done" and stage.out is not None:
            remade.append(stage.out.resolve())
    return found


def _refuse_changed(stages: Sequence[Stage], log: Sequence[Row]) -> None:
    reasons = []
    for stage in stages:
        row = last_row(stage, log)
        assert row is not None  # it ended once
        what = [f"{path} has changed" for path in changed_inputs(row)]
        what += [f"its command was: {row['command']}"] if row["command"] != stage.command else []
        reasons.append(f"  {stage.label}: {'; '.join(what)}")
    only = " ".join(f"--only {shlex.quote(name)}" for name in dict.fromkeys(stage.name for stage in stages))
    outs = shlex.join(str(stage.out) for stage in stages)
    if reasons:
        raise ValueError(
            "stages that are done would now be made from something else:\n" + "\n".join(reasons) + "\n"
            f"To make them again, add {only} or remove {outs}; to keep them, take another run_dir or undo the change."
        )


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
    inputs = named_inputs(stage.words, stage.out)
    # programs such as `torchrun` are those of the environment that runs the recipe, whether or not it is activated
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    launch = sys.executable if stage.launch[0] == "python" else shutil.which(stage.launch[0], path=path)
    if launch is None:
        raise ValueError(f"stage {stage.label!r}: there is no program {stage.launch[0]!r} to launch it with")
    log_row(stage, run_dir, {"inputs": inputs, "seconds": None, "exit_code": None})
    words = [launch, *stage.launch[1:], "-m", "lit_vpo", *stage.words]
    code = subprocess.run(words, env={**os.environ, "PATH": path}).returncode
    log_row(stage, run_dir, {"inputs": inputs, "seconds": round(time.monotonic() - start, 3), "exit_code": code})
    return code


def _elapsed(start: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02d}"
