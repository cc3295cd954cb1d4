"""What a recipe's YAML becomes: commands, once for every arm and seed that they differ for."""

import pathlib

import pytest

from lit_vpo.recipe_file import read_recipe, substitute


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and reads it: (label, words) of every stage."""

    def read(text, **how):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        _, stages = read_recipe(file, **how)
        return [(stage.label, " ".join(stage.words)) for stage in stages]

    return read


def test_overrides_replace_known_keys_only(recipe, tmp_path):
    text = "{set: {run_dir: r, n: 0, flag: true}, stages: [{name: a, run: '{run_dir}/x {n} {flag}'}]}"
    assert recipe(text) == [("a", "r/x 0 true")]
    assert recipe(text, overrides={"n": "7", "run_dir": "b c"}) == [("a", "b c/x 7 true")]
    run_dir, (stage,) = read_recipe(tmp_path / "recipe.yaml", {"run_dir": "b c"})
    assert run_dir == pathlib.Path("b c") and stage.words == ("b c/x", "0", "true")
    with pytest.raises(ValueError, match="no key 'm' to set; known: run_dir, n, flag"):
        recipe(text, overrides={"m": "7"})
    with pytest.raises(ValueError, match="no key 'seed'"):
        recipe(text, seeds="1")


TWO_BY_TWO = """
set: {run_dir: r, seed: "0,1", steps: 5, rate: 1}
arms: {long: {steps: 9}, once: {seed: 0, rate: 2}}
stages:
  - {name: clips, run: "world {run_dir}/clips", out: "{run_dir}/clips"}
  - {name: pairs, run: "pairs {run_dir}/{seed}", out: "{run_dir}/{seed}"}
  - name: train
    run: fit {steps} {arm} {seed}
    out: "{run_dir}/{arm}-{seed}"
    launch: torchrun --nproc_per_node {rate}
  - {name: table, run: "compare {arm} a-{*seed}.jsonl --seeds {seeds}"}
"""


def test_a_stage_stands_once_for_every_command_that_it_becomes(recipe):
    assert recipe(TWO_BY_TWO) == [
        ("clips", "world r/clips"),
        ("pairs (seed 0)", "pairs r/0"),
        ("pairs (arm long, seed 1)", "pairs r/1"),
        ("train (arm long, seed 0)", "fit 9 long 0"),
        ("train (arm long, seed 1)", "fit 9 long 1"),
        ("train (arm once, seed 0)", "fit 5 once 0"),
        ("table (arm long)", "compare long a-0.jsonl a-1.jsonl --seeds 0,1"),
        ("table (arm once, seed 0)", "compare once a-0.jsonl --seeds 0"),
    ]


def test_the_command_line_chooses_arms_and_seeds_and_has_the_last_word(recipe):
    found = recipe(TWO_BY_TWO, seeds="3", arms=["long"], overrides={"steps": "1"})
    assert found == [
        ("clips", "world r/clips"),
        ("pairs", "pairs r/3"),
        ("train", "fit 1 long 3"),
        ("table", "compare long a-3.jsonl --seeds 3"),
    ]


def test_the_command_is_the_one_to_type(recipe, tmp_path):
    recipe(TWO_BY_TWO)
    _, stages = read_recipe(tmp_path / "recipe.yaml", {"run_dir": "a run"})
    assert stages[0].command == "python -m lit_vpo world 'a run/clips'"
    assert stages[3].command == "torchrun --nproc_per_node 1 -m lit_vpo fit 9 long 0"


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
        ("{set: {run_dir: x}, stages: [{name: a, run: b, launch: ''}]}", "must be text"),
        ("{set: {run_dir: x}, stages: [{name: a, run: '{seed}'}]}", "unknown key 'seed'"),
        ("{set: {run_dir: x}, stages: [{name: a, run: 'b-{*seed}'}]}", r"unknown key '\*seed'"),
        ("{set: {run_dir: x, seeds: 1}, stages: [{name: a, run: b}]}", "'seeds' is filled in"),
        ("{set: {run_dir: x, seed: a}, stages: [{name: a, run: b}]}", "numbers with commas between"),
        ("{set: {run_dir: x, seed: '1,1'}, stages: [{name: a, run: b}]}", "each once"),
        ("{set: {run_dir: x}, arms: [a], stages: [{name: a, run: b}]}", "`arms` must map"),
        ("{set: {run_dir: x}, arms: {a/b: {}}, stages: [{name: a, run: b}]}", "`arms` must map"),
        ("{set: {run_dir: x}, arms: {a: {n: 1}}, stages: [{name: a, run: b}]}", "arm a has no key 'n'"),
        ("{set: {run_dir: x}, arms: {a: {run_dir: y}}, stages: [{name: a, run: b}]}", "arm a has no key 'run_dir'"),
        (
            "{set: {run_dir: x, n: 0}, arms: {a: , b: {n: 1}}, stages: [{name: s, run: '{n}', out: x/y}]}",
            r"s \(arm b\)",
        ),
        (
            "{set: {run_dir: x}, stages: [{name: a, run: b, out: x/y}, {name: c, run: d, out: x/z/../y}]}",
            "made by a and",
        ),
        ("{set: {run_dir: x}, stages: [{name: a, run: !!python/object/apply:os.getcwd []}]}", "no YAML"),
    ],
)
def test_malformed_recipes_are_refused(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(file)


def test_missing_recipe(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_recipe(tmp_path / "none.yaml")


def test_wrong_choices_are_refused(recipe):
    for how, message in [
        ({"arms": ["none"]}, "no arm 'none'; its arms are: long, once"),
        ({"seeds": "1,x"}, "numbers with commas"),
        ({"overrides": {"seed": "1"}}, "--seeds 0,1,2"),
    ]:
        with pytest.raises(ValueError, match=message):
            recipe(TWO_BY_TWO, **how)
