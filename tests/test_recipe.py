"""What a launch runs, skips, goes on with and refuses."""

import json
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from lit_vpo import recipe as recipes
from lit_vpo.recipe import run_recipe
from lit_vpo.recipe_file import read_recipe

GOOD = """
set: {{run_dir: {run_dir}, number: 0}}
stages:
  - name: first
    run: --version
  - name: second
    run: run {{run_dir}}/no.yaml --set "a={{number}}"
  - name: third
    run: --version
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD.format(run_dir=tmp_path / "a run"))
    return file


def log(tmp_path):
    return [json.loads(line) for line in (tmp_path / "a run" / "recipe.jsonl").read_text().splitlines()]


def test_stops_at_the_first_failing_stage_with_its_name_and_code(recipe, tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        run_recipe(recipe)
    assert stopped.value.code == 1
    assert [(row["stage"], row["exit_code"]) for row in log(tmp_path)] == [
        ("first", None), ("first", 0), ("second", None), ("second", 1)
    ]  # fmt: skip
    assert all((row["seconds"] is None) == (row["exit_code"] is None) for row in log(tmp_path))
    out, err = capfd.readouterr()
    assert "[1/3] first" in out and "[2/3] second" in out and "third" not in out
    assert "lit_vpo 0" in out  # the stage's own output
    assert "stage 'second' failed with exit code 1" in err


def test_the_printed_command_is_the_one_that_runs(recipe, tmp_path, capfd):
    run_recipe(recipe, only=["third"])
    row = log(tmp_path)[-1]
    assert (row["stage"], row["command"]) == ("third", "python -m lit_vpo --version")
    assert row["command"] in capfd.readouterr().out
    _, stages = read_recipe(recipe)
    assert stages[1].words == ("run", f"{tmp_path}/a run/no.yaml", "--set", "a=0")
    assert stages[1].command == f"python -m lit_vpo run '{tmp_path}/a run/no.yaml' --set a=0"


def test_output_is_live_and_in_order(recipe):
    # through a pipe, where a buffered header would come after the stage's own words
    call = f"from lit_vpo.recipe import run_recipe; run_recipe({str(recipe)!r}, only=['first', 'third'])"
    out = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True).stdout
    places = [out.index(text) for text in ("[1/2] first", "lit_vpo 0", "[2/2] third", "2 stages done")]
    assert places == sorted(places)


def test_unknown_names_are_refused_before_anything_runs(recipe, tmp_path):
    with pytest.raises(ValueError, match="no stage 'fourth'; its stages are: first, second, third"):
        run_recipe(recipe, only=["third", "fourth"])
    with pytest.raises(ValueError, match="no key 'numbr' to set"):
        run_recipe(recipe, {"numbr": "7"})
    assert not (tmp_path / "a run").exists()


def test_a_launcher_of_the_same_environment_starts_the_stage(recipe, tmp_path, monkeypatch, capfd):
    launcher = tmp_path / "bin" / "twice"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\necho "launched $@"; shift; exec {sys.executable} "$@"\n')
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    recipe.write_text(recipe.read_text() + "    launch: twice --ranks={number}\n")
    monkeypatch.setenv("PATH", str(launcher.parent), prepend=":")
    run_recipe(recipe, only=["third"])
    out = capfd.readouterr().out
    assert "\ntwice --ranks=0 -m lit_vpo --version\n" in out  # as it is printed
    assert "launched --ranks=0 -m lit_vpo --version" in out and "lit_vpo 0." in out
    monkeypatch.undo()
    with pytest.raises(ValueError, match="'third': there is no program 'twice'"):
        run_recipe(recipe, only=["third"])


MAKING = """
set: {{run_dir: {run_dir}, num: 1, fails: ok}}
stages:
  - {{name: one, run: "make {{run_dir}}/one ok {source}", out: "{{run_dir}}/one"}}
  - {{name: two, run: "make {{run_dir}}/two {{num}} {{run_dir}}/one", out: "{{run_dir}}/two"}}
  - {{name: three, run: "make {{run_dir}}/three {{fails}} {{run_dir}}/two --ckpt_path last", out: "{{run_dir}}/three"}}
  - {{name: four, run: "check {{run_dir}}/three"}}
"""


class Making:
    """A recipe whose commands make a folder: a checkpoint that holds what they read, and what they found there."""

    def __init__(self, folder, monkeypatch):
        self.file, self.source, self.run_dir, self.ran = folder / "r.yaml", folder / "source.txt", folder / "a run", []
        self.file.write_text(MAKING.format(run_dir=self.run_dir, source=self.source))
        self.source.write_text("first")
        monkeypatch.setattr(recipes.subprocess, "run", self.run)

    def run(self, words, env):
        if words[3] == "check":
            self.ran.append(CLEAN["four"])
            return subprocess.CompletedProcess(words, 0)
        out, how, source = map(pathlib.Path, words[4:7])
        left = sorted(path.name for path in out.rglob("*.*"))
        self.ran.append((out.name, left))
        folder = out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        if str(how) == "cut before a checkpoint":
            (folder / "half.part").touch()
            raise KeyboardInterrupt
        read = source if source.is_file() else source / "checkpoints" / "last.ckpt"
        (folder / "last.ckpt").write_text(f"{how} of {read.read_text()}")
        if str(how) == "cut":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(words, 3 if str(how) == "fails" else 0)

    def __call__(self, only=(), error=None, match=None, **values):
        self.ran.clear()
        if error is None:
            run_recipe(self.file, values, only)
        else:
            with pytest.raises(error, match=match):
                run_recipe(self.file, values, only)
        return list(self.ran)


@pytest.fixture
def making(tmp_path, monkeypatch):
    return Making(tmp_path, monkeypatch)


CLEAN = {name: (name, []) for name in ("one", "two", "three", "four")}


def test_a_second_launch_runs_nothing_and_prints_every_command(making, capfd):
    assert making() == list(CLEAN.values())
    first = capfd.readouterr().out
    assert making() == []
    second = capfd.readouterr().out.splitlines()
    assert [line[6:] for line in second if "done before" in line] == [f"done before: {name}" for name in CLEAN]
    commands = [line for line in second if line.startswith("python")]
    assert len(commands) == 4 and commands == [line for line in first.splitlines() if line.startswith("python")]


def test_a_changed_command_of_a_finished_stage_is_refused_with_what_to_do(making):
    making()
    message = (
        r"(?s)two: its command was: .*/two' 1 .*add --only two or remove '.*/two'; to keep them, take another run_dir"
    )
    assert making(error=ValueError, match=message, num="2") == []
    assert (making.run_dir / "two" / "checkpoints" / "last.ckpt").exists()
    assert making(only=["two"], num="2") == [CLEAN["two"]]
    assert making(error=ValueError, match="three: .*/two has changed", num="2") == []
    assert making(only=["three", "four"], num="2") == [CLEAN["three"], CLEAN["four"]]
    assert making(num="2") == []


def test_changed_inputs_are_refused_before_anything_runs(making):
    making()
    shutil.rmtree(making.run_dir / "three")  # so there is something to run
    making.source.write_text("second")
    assert making(error=ValueError, match=r"one: .*source.txt has changed\n.*--only one") == []
    making.source.write_text("first")
    assert making() == [CLEAN["three"]]


def test_the_time_of_a_file_does_not_matter(making):
    making()
    making.source.write_text("first")
    assert making() == []


def test_what_was_removed_is_made_again_and_what_comes_after_it_only_if_it_differs(making):
    making()
    shutil.rmtree(making.run_dir / "one")
    shutil.rmtree(making.run_dir / "two")
    assert making() == [CLEAN["one"], CLEAN["two"]]  # of the same content, so `three` is as it was
    shutil.rmtree(making.run_dir / "one")
    making.source.write_text("second")
    assert making(error=ValueError, match=r"one: .*source.txt has changed|two: .*/one has changed") == [CLEAN["one"]]
    for name in ("two", "three"):
        shutil.rmtree(making.run_dir / name)
    assert making() == [CLEAN["two"], CLEAN["three"], CLEAN["four"]]
    assert making() == []


def test_a_stage_without_out_just_runs_again(making):
    making()
    making(only=["three"], fails="other")
    assert making(fails="other") == [CLEAN["four"]]


def test_a_failed_stage_is_run_again_and_goes_on_from_its_checkpoint(making):
    assert making(error=SystemExit, num="fails") == [CLEAN["one"], CLEAN["two"]]
    assert making(error=SystemExit, num="fails") == [CLEAN["two"]]  # does not resume: starts clean
    assert making(error=SystemExit, fails="fails") == [CLEAN["two"], CLEAN["three"]]
    assert making(error=SystemExit, fails="fails") == [("three", ["last.ckpt"])]


def test_a_cut_training_goes_on_unless_its_inputs_or_its_command_changed(making):
    making(error=KeyboardInterrupt, fails="cut")
    assert making(error=KeyboardInterrupt, fails="cut") == [("three", ["last.ckpt"])]
    making(only=["two"], num="2")
    assert making(error=KeyboardInterrupt, fails="cut", num="2") == [CLEAN["three"]]  # `two` holds other things
    assert making(error=KeyboardInterrupt, fails="cut", num="2") == [("three", ["last.ckpt"])]
    assert making(num="2") == [CLEAN["three"], CLEAN["four"]]  # its own command changed


def test_a_training_cut_before_its_first_checkpoint_starts_clean(making):
    making(error=KeyboardInterrupt, fails="cut before a checkpoint")
    assert making(error=KeyboardInterrupt, fails="cut before a checkpoint") == [CLEAN["three"]]


def test_a_stage_that_is_still_to_run_is_waited_for_before_a_later_one_is_refused(making):
    making()
    making(error=KeyboardInterrupt, only=["two"], num="cut")  # `two` now holds another checkpoint than `three` read
    assert making() == [CLEAN["two"]]  # and then the same one again


def test_named_stages_run_always(making):
    making()
    assert making(only=["two"]) == [CLEAN["two"]]
    assert making() == []  # it made the same


def test_what_the_recipe_never_made_is_left_alone(making):
    mine = making.run_dir / "one" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert making()[0] == ("one", ["mine.txt"])
    assert mine.exists()


def test_a_broken_log_is_said(making):
    making()
    log = making.run_dir / "recipe.jsonl"
    whole = log.read_text()
    log.write_text(whole + "{")
    making(error=ValueError, match="remove the broken line")
    log.write_text(whole + '{"stage": "one", "exit_code": 0}\n')
    making(error=ValueError, match="another version")


ARMS = """
set: {{run_dir: {run_dir}, seed: 0, steps: 1}}
arms: {{long: {{steps: 9}}, short: }}
stages:
  - {{name: clips, run: "make {{run_dir}}/clips ok {source}", out: "{{run_dir}}/clips"}}
  - {{name: pairs, run: "make {{run_dir}}/pairs-{{seed}} ok {{run_dir}}/clips", out: "{{run_dir}}/pairs-{{seed}}"}}
  - name: train
    run: make "{{run_dir}}/{{arm}}-{{seed}}" {{steps}} "{{run_dir}}/pairs-{{seed}}"
    out: "{{run_dir}}/{{arm}}-{{seed}}"
"""


def test_arms_and_seeds_share_what_is_done(making, capfd):
    making.file.write_text(ARMS.format(run_dir=making.run_dir, source=making.source))

    def launch(**how):
        making.ran.clear()
        run_recipe(making.file, **how)
        return [name for name, left in making.ran if not left]

    assert launch(arms=["short"]) == ["clips", "pairs-0", "short-0"]
    assert launch(seeds="0,1") == ["pairs-1", "long-0", "long-1", "short-1"]
    assert "done before: train (arm short, seed 0)" in capfd.readouterr().out
    assert launch(seeds="0,1") == launch() == launch(arms=["long"]) == []
    assert launch(seeds="1", arms=["long"], only=["train"]) == ["long-1"]
