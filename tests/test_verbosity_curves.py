"""Verbosity by iteration: what is read from the verdicts is what the figure shows, a line for each run."""

import json

import pytest
from PIL import Image

from lit_vpo.cli import main
from lit_vpo.metrics import CaptionCounts, verbosity_metrics
from lit_vpo.verbosity_curves import draw, read_verbosity


def scorer(caption, record):
    """Every word is an error: the shorter answer is better."""
    return CaptionCounts(2, 0, 0, len(caption.split()), 0, 1, 1, 0, 1, 0)


@pytest.fixture
def make_run(tmp_path, make_verdict):
    """A run whose chosen answers have `lengths[k]` words in iteration k, the rejected ones two."""

    def make(name, lengths):
        for k, length in enumerate(lengths):
            folder = tmp_path / name / "rounds" / str(k)
            folder.mkdir(parents=True)
            row = make_verdict("a", ["word " * length, "a b"], iteration=k)
            (folder / "verdicts.0-1.jsonl").write_text(json.dumps(row) + "\n")
        return str(tmp_path / name)

    return make


def test_the_lines_are_the_numbers_of_each_iteration(make_run, make_verdict):
    runs = [read_verbosity(make_run("isr", [1, 3, 4]), scorer), read_verbosity(make_run("self", [3, 5]))]
    assert [run.name for run in runs] == ["isr", "self"] and runs[0].iterations == [0, 1, 2]
    assert runs[0].values["chosen_words"] == [1, 3, 4] and runs[0].values["length_ratio"] == [0.5, 1.5, 2]
    expected = verbosity_metrics([make_verdict("a", ["x y z", "a b"])])
    assert {name: values[0] for name, values in runs[1].values.items()} == pytest.approx(expected, nan_ok=True)
    words, ratio, longer, steady, accuracy = draw(runs).axes
    assert [list(line.get_ydata()) for line in words.lines] == [[1, 3, 4], [3, 5]]
    assert [list(line.get_ydata()) for line in ratio.lines] == [[0.5, 1.5, 2], [1.5, 2.5]]
    assert [list(line.get_ydata()) for line in longer.lines] == [[0, 1, 1], [1, 1]]
    assert [list(line.get_ydata()) for line in steady.lines] == [[1, 1, 1], [1, 1]]
    assert list(accuracy.lines[0].get_ydata()) == [1, 0, 0] and list(accuracy.lines[0].get_xdata()) == [0, 1, 2]
    assert [text.get_text() for text in words.get_legend().get_texts()] == ["isr", "self"]


def test_the_command_draws_several_runs_and_writes_their_numbers(make_run, tmp_path, capsys):
    runs, out = [make_run("isr", [1, 3]), make_run("self", [3, 5])], tmp_path / "new" / "v.png"
    main(["verbosity", *runs, "--out", str(out), "--scorer", f"{__name__}.scorer"])
    assert Image.open(out).size == (2250, 360)
    content = json.loads(out.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert content[runs[1]]["values"]["chosen_words"] == [3, 5] and content[runs[1]]["judges"] == [{"judge": "self"}]
    assert [each["estimate"] for each in content[runs[0]]["accuracy"]] == [1, 0]
    assert content[runs[0]]["values"]["unsupported_words"] == [None, None]  # nan: nobody knows the truth
    printed = capsys.readouterr().out
    assert "4 iterations of 2 runs" in printed and "length_ratio" in printed and 'judge: {"judge": "self"}' in printed


def test_without_a_scorer_it_stands_in_the_run(make_run, tmp_path):
    main(["verbosity", make_run("isr", [1, 3])])
    assert Image.open(tmp_path / "isr" / "verbosity.png").size == (1800, 360)


def test_a_folder_without_verdicts(tmp_path):
    with pytest.raises(ValueError, match="has no verdicts, neither"):
        main(["verbosity", str(tmp_path)])
