"""Finished arms in `results.jsonl`, and from what their files were made."""

import json

import pytest
from test_compare import AFTER, BEFORE, caption, compare, scorer, write

from lit_vpo.cli import main
from lit_vpo.recipe_log import made_from, read_log
from lit_vpo.results import append_result


@pytest.fixture
def generations(tmp_path):
    """A file before and two after, in a run folder."""
    return [
        write(tmp_path / f"{name}.jsonl", [caption(i, c, model=name) for i, c in enumerate(counts)])
        for name, counts in (("before", BEFORE), ("after-0", AFTER), ("after-1", BEFORE))
    ]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_arm_is_appended_once_and_another_number_is_another_line(tmp_path, generations):
    path = tmp_path / "in" / "results.jsonl"
    before, *after = generations
    found = compare(before, after, scorer, seed=2)
    assert append_result(path, "rounds", [0, 1], found)
    first = path.read_text()
    assert not append_result(path, "rounds", [0, 1], found)
    path.write_text(first := first.replace(rows(path)[0]["date"], "2020-02-02"))  # on another day too
    assert not append_result(path, "rounds", [0, 1], found) and path.read_text() == first
    (row,) = rows(path)
    assert (row["arm"], row["seeds"], row["num_runs"], row["seed"]) == ("rounds", [0, 1], 2, 2)
    assert [model["base"] for model in row["models"]["after"]] == ["b0", "b0"]
    (missed,) = [line for line in found.lines if line.name == "missed"]
    low, high = missed.difference.low, missed.difference.high
    assert (row["statistics"]["missed"]["difference"]["low"], row["statistics"]["missed"]["num_clips"]) == (low, 3)
    assert row["statistics"]["missed"]["difference"]["high"] == high
    assert append_result(path, "one_round", [0, 1], found)
    assert append_result(path, "rounds", [0], compare(before, after[:1], scorer, seed=2))
    assert [(row["arm"], row["seeds"]) for row in rows(path)] == [
        ("rounds", [0, 1]),
        ("one_round", [0, 1]),
        ("rounds", [0]),
    ]
    assert path.read_text().startswith(first)


def test_undefined_numbers_do_not_make_the_line_another_one(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", [caption(0, BEFORE[2])]) for name in ("before", "after")]
    found = compare(files[0], files[1:], scorer)
    assert [append_result(tmp_path / "r.jsonl", "a", [0], found) for _ in range(2)] == [True, False]


def test_a_broken_file_is_said_and_left(tmp_path, generations):
    path = tmp_path / "r.jsonl"
    path.write_text("{half")
    with pytest.raises(ValueError, match="no JSON"):
        append_result(path, "a", [0], compare(generations[0], generations[1:2], scorer))
    assert path.read_text() == "{half"


def stage(out, command, **inputs):
    return {"out": out, "command": command, "inputs": inputs, "exit_code": 0}


def test_made_from_follows_the_stages_back_to_what_none_made():
    log = [
        stage("r/clips", "world"),
        stage("r/dpo", "fit", **{"c.yaml": "1", "r/clips/pairs.jsonl": "2"}),
        stage("r/other", "other", **{"c.yaml": "1"}),
        stage("r/after", "predict", **{"r/dpo/last.ckpt": "3", "c.yaml": "1", "base": "4"}),
    ]
    made = made_from(log, ["r/after"])
    assert made["files"] == {"base": "4", "c.yaml": "1"}
    assert made_from([*log, stage("r/more", "more")], ["r/after"]) == made  # what did not lead there does not count
    for place, row in [(0, stage("r/clips", "world 2")), (1, stage("r/dpo", "fit", **{"c.yaml": "9"}))]:
        assert made_from([*log[:place], row, *log[place + 1 :]], ["r/after"])["commands"] != made["commands"]
    with pytest.raises(ValueError, match="no finished stage of the recipe has r/none"):
        made_from(log, ["r/none"])
    with pytest.raises(ValueError, match="r/after"):
        made_from([*log[:3], {**log[3], "exit_code": None}], ["r/after"])


def test_the_command_appends_with_what_the_recipe_did(tmp_path, generations, capsys):
    run_dir, (before, *after) = tmp_path / "run", generations
    run_dir.mkdir()
    log = [stage(path, f"predict {path}", **{"c.yaml": "1"}) for path in generations]
    (run_dir / "recipe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    words = ["compare", before, *after, "--scorer", f"{scorer.__module__}.scorer", "--run_dir", str(run_dir)]
    words += ["--results", str(tmp_path / "r.jsonl"), "--arm", "rounds", "--seeds", "3,4"]
    main(words)
    main(words)
    assert "stands already in" in capsys.readouterr().out
    (row,) = rows(tmp_path / "r.jsonl")
    assert row["made_from"] == made_from(read_log(run_dir), generations) and row["seeds"] == [3, 4]
    with pytest.raises(ValueError, match="a number for each of the 2 files"):
        main([*words, "--seeds", "3"])
    with pytest.raises(ValueError, match="give it too"):
        main(words[:8])
