import json
import subprocess
import sys

import pytest

from lit_vpo.recipe import read_recipe, run_recipe, substitute

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
    assert [(row["stage"], row["exit_code"]) for row in log(tmp_path)] == [("first", 0), ("second", 1)]
    assert all(0 < row["seconds"] < 60 for row in log(tmp_path))
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
        ("{set: {run_dir: x}, stages: [{name: a, run: b, when: c}]}", "nothing else"),
        ("{set: {run_dir: x}, stages: [{name: a, run: 3}]}", "must be text"),
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
