import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from lit_vpo import recipe as recipes
from lit_vpo.recipe import read_recipe, run_recipe, state_of, substitute

GOOD = """
set: {{run_dir: {run_dir}, seed: 0, flag: true}}
stages:
  - name: first
    run: --version
  - name: second
    run: run {{run_dir}}/no.yaml --set "a={{seed}}"
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


def test_overrides_replace_known_keys_only(recipe, tmp_path):
    values, stages = read_recipe(recipe, {"seed": "7", "run_dir": "elsewhere"})
    assert values == {"run_dir": "elsewhere", "seed": "7", "flag": "true"}
    assert stages[1].words[1:] == ("elsewhere/no.yaml", "--set", "a=7")
    with pytest.raises(ValueError, match="no key 'sed' to set; known: run_dir, seed, flag"):
        run_recipe(recipe, {"sed": "7"})
    with pytest.raises(ValueError, match="no stage 'fourth'; its stages are: first, second, third"):
        run_recipe(recipe, only=["third", "fourth"])
    assert not (tmp_path / "a run").exists()  # nothing has run


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{a}/{b}", "1/x y"), ("{{a}}", "{a}"), ("{{class_path: {b}}}", "{class_path: x y}"), ("none", "none")],
)
def test_substitution(text, expected):
    assert substitute(text, {"a": "1", "b": "x y"}) == expected


@pytest.mark.parametrize("text", ["{c}", "{}", "{a.real}", "{a[0]}", "{a!r}", "{a:>9}", "{a", "a}"])
def test_substitution_knows_keys_only(text):
    with pytest.raises(ValueError):
        substitute(text, {"a": "1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "no YAML"),
        ("- a", "mapping of `set`"),
        ("{set: {run_dir: x}, steps: []}", "mapping of `set`"),
        ("{set: {run_dir: x}}", "at least one stage"),
        ("{set: {run_dir: x}, stages: []}", "at least one stage"),
        ("{set: {seed: 0}, stages: [{name: a, run: b}]}", "must hold run_dir"),
        ("{set: {run_dir: [x]}, stages: [{name: a, run: b}]}", "single values"),
        ("{set: {run_dir: x}, stages: [{name: a}]}", "stage 1: needs `name` and `run`"),
        ("{set: {run_dir: x}, stages: [{name: a, run: b, when: c}]}", "nothing else but"),
        ("{set: {run_dir: x}, stages: [{name: a, run: 3}]}", "must be text"),
        ("{set: {run_dir: x}, stages: [{name: a, run: b, out: 3}]}", "must be text"),
        ("{set: {run_dir: x}, stages: [{name: a, run: b, out: y}]}", "y is not in"),
        ("{set: {run_dir: x}, stages: [{name: a, run: b, out: '{run_dir}'}]}", "x is not in"),
        ("{set: {run_dir: x}, stages: [{name: a, run: b, out: '{run_dir}/../y'}]}", "is not in"),
        ("{set: {run_dir: x}, stages: [{name: a, run: b}, {name: a, run: c}]}", "two stages are called a"),
        ("{set: {run_dir: x}, stages: [{name: a, run: 'b {c}'}]}", "unknown key 'c'; known: run_dir"),
        ("{set: {run_dir: x}, stages: [{name: a, run: 'b \"c'}]}", "No closing quotation"),
        ("{set: {run_dir: x}, stages: [{name: a, run: !!python/object/apply:os.getcwd []}]}", "no YAML"),
    ],
)
def test_malformed_recipes_are_refused(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        run_recipe(file)


def test_missing_recipe(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        run_recipe(tmp_path / "none.yaml")


MAKING = """
set: {{run_dir: {run_dir}, num: 1, fails: ok}}
stages:
  - {{name: one, run: "make {{run_dir}}/one ok", out: "{{run_dir}}/one"}}
  - {{name: two, run: "make {{run_dir}}/two {{num}}", out: "{{run_dir}}/two"}}
  - {{name: three, run: "make {{run_dir}}/three {{fails}} --ckpt_path last", out: "{{run_dir}}/three"}}
  - {{name: four, run: "make {{run_dir}}/four ok"}}
"""


@pytest.fixture
def making(tmp_path, monkeypatch):
    """A recipe whose commands make a folder that must not hold anything but a checkpoint, and what has run so far."""
    file, ran = tmp_path / "making.yaml", []
    file.write_text(MAKING.format(run_dir=tmp_path / "a run"))

    def run(words):
        _, out, how = words[3:6]
        left = sorted(path.name for path in pathlib.Path(out).rglob("*.*"))
        ran.append((pathlib.Path(out).name, left))
        folder = pathlib.Path(out) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        if how == "cut before a checkpoint":
            (folder / "half.part").touch()
            raise KeyboardInterrupt
        (folder / "last.ckpt").touch()
        if how == "cut":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(words, 3 if how == "fails" else 0)

    monkeypatch.setattr(recipes.subprocess, "run", run)

    def launch(only=(), error=None, **values):
        ran.clear()
        if error is None:
            run_recipe(file, values, only)
        else:
            with pytest.raises(error):
                run_recipe(file, values, only)
        return list(ran)

    return launch


CLEAN = {name: (name, []) for name in ("one", "two", "three", "four")}


def test_a_second_launch_runs_nothing(making, capfd):
    assert making() == list(CLEAN.values())
    assert making() == []
    assert [line[6:] for line in capfd.readouterr().out.splitlines() if "done before" in line] == [
        f"done before: {name}" for name in CLEAN
    ]


def test_a_changed_command_runs_clean_with_all_that_comes_after_it(making):
    making()
    # `four` names no `out`, so what it made stays
    assert making(num="2") == [CLEAN["two"], CLEAN["three"], ("four", ["last.ckpt"])]
    assert making(num="2") == []


def test_a_failed_stage_is_run_again_and_goes_on_from_its_checkpoint(making):
    assert making(error=SystemExit, num="fails") == [CLEAN["one"], CLEAN["two"]]
    assert making(error=SystemExit, num="fails") == [CLEAN["two"]]  # does not resume: starts clean
    assert making(error=SystemExit, fails="fails") == [CLEAN["two"], CLEAN["three"]]
    assert making(error=SystemExit, fails="fails") == [("three", ["last.ckpt"])]


def test_a_cut_training_goes_on_unless_something_before_it_changed(making):
    making(error=KeyboardInterrupt, fails="cut")
    assert making(error=KeyboardInterrupt, fails="cut") == [("three", ["last.ckpt"])]
    assert making(error=KeyboardInterrupt, fails="cut", num="2") == [CLEAN["two"], CLEAN["three"]]
    assert making(num="2") == [CLEAN["three"], CLEAN["four"]]  # its own command changed


def test_a_training_cut_before_its_first_checkpoint_starts_clean(making):
    making(error=KeyboardInterrupt, fails="cut before a checkpoint")
    assert making(error=KeyboardInterrupt, fails="cut before a checkpoint") == [CLEAN["three"]]


def test_a_stage_cut_after_an_earlier_one_ran_anew_is_not_taken_for_done(making):
    making()
    assert making(error=KeyboardInterrupt, num="cut") == [CLEAN["two"]]
    # `two` runs again as it was first; the rows of `three` are older than its own
    assert making() == [CLEAN["two"], CLEAN["three"], ("four", ["last.ckpt"])]


def test_named_stages_run_always_and_make_the_later_ones_run(making):
    making()
    assert making(only=["two"]) == [CLEAN["two"]]
    assert making() == [CLEAN["three"], ("four", ["last.ckpt"])]


def test_what_the_recipe_never_made_is_left_alone(making, tmp_path):
    mine = tmp_path / "a run" / "one" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert making()[0] == ("one", ["mine.txt"])
    assert mine.exists()


def test_what_was_removed_is_made_again_with_all_that_comes_after_it(making, tmp_path):
    making()
    shutil.rmtree(tmp_path / "a run" / "three")
    assert making() == [CLEAN["three"], ("four", ["last.ckpt"])]
    assert making() == []


def test_states_by_hand():
    stage = recipes.Stage("b", ("go",))
    begun, done = ({"stage": "b", "command": "python -m lit_vpo go", "exit_code": code} for code in (None, 0))
    before = {"stage": "a", "command": "x", "exit_code": 0}
    assert state_of(stage, ["a"], [before]) == "new"
    assert state_of(stage, ["a"], [before, begun]) == "cut"
    assert state_of(stage, ["a"], [before, begun, done]) == "done"
    assert state_of(stage, ["a"], [before, begun, done, before]) == "changed"
    assert state_of(stage, [], [before, begun, done, before]) == "done"  # `a` comes later in the recipe
    assert state_of(recipes.Stage("b", ("stop",)), ["a"], [before, begun, done]) == "changed"


def test_a_broken_log_is_said(making, tmp_path):
    making()
    with (tmp_path / "a run" / "recipe.jsonl").open("a") as file:
        file.write("{")
    making(error=ValueError)
