import json
import math

import pytest
import torch

from lit_vpo.compare import compare
from lit_vpo.generations import load_scorer
from lit_vpo.metrics import CaptionCounts, bootstrap_ratio, caption_errors, paired_bootstrap


def scorer(caption, record):
    """Ten numbers -> counts; a record's own number of events must match."""
    counts = CaptionCounts(*map(int, caption.split()))
    assert counts.num_events == record["num_events"]
    return counts


def caption(number, counts, key=None, model="m0"):
    row = {
        "id": f"c{number}",
        "key": key or f"k{number}",
        "response": " ".join(map(str, counts)),
        "finished": True,
        "num_events": counts[0],
    }
    return {**row, "meta": {}, "model": {"name": model, "hash": f"{model}-hash", "base": "b0"}}


def question(number, response, answer="red"):
    meta = {"options": ["red", "dark blue", "green"], "kind": "colour"}
    row = {"id": f"q{number}", "key": f"k{number}", "response": response, "finished": True}
    return row | {"ground_truth": answer, "meta": meta}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


BEFORE = [(4, 1, 0, 1, 1, 3, 4, 1, 20, 0), (2, 0, 1, 2, 0, 1, 6, 0, 40, 10), (3, 3, 0, 0, 0, 0, 1, 0, 5, 0)]
AFTER = [(4, 1, 0, 0, 0, 3, 3, 0, 16, 0), (2, 0, 0, 1, 0, 1, 3, 0, 20, 0), (3, 2, 0, 0, 0, 0, 1, 0, 6, 0)]


def test_captions_agree_with_the_metrics(tmp_path):
    before = write(tmp_path / "before.jsonl", [caption(i, c) for i, c in enumerate(BEFORE)])
    after = write(tmp_path / "after.jsonl", [caption(i, c, model="m1") for i, c in reversed(list(enumerate(AFTER)))])
    lines = {line.name: line for line in compare(before, [after], scorer).lines}
    names = {
        "order error": "order_error",
        "total event error": "event_error/total",
        "missed": "event_error/missed",
        "incorrect": "event_error/incorrect",
        "hallucinated": "event_error/hallucinated",
        "repetition": "repetition",
        "words per caption": "num_words",
    }
    assert list(lines) == list(names)
    for side, counts in (("before", BEFORE), ("after", AFTER)):
        expected = caption_errors([CaptionCounts(*c) for c in counts])
        for name, key in names.items():
            assert getattr(lines[name], side).estimate == pytest.approx(float(expected[key]))
    for line in lines.values():
        assert line.difference.estimate == pytest.approx(line.after.estimate - line.before.estimate)
        assert line.difference.low <= line.difference.estimate <= line.difference.high
        assert (line.num_rows, line.num_clips) == (3, 3)


def test_captions_of_intervals_have_lines_of_their_own(tmp_path):
    def rows(counts, model):
        made = [caption(i, c, model=model) for i, c in enumerate(counts)]
        made[1]["meta"] = {"scope": "interval", "interval": [0, 2]}
        return made

    found = compare(
        write(tmp_path / "b.jsonl", rows(BEFORE, "m0")), [write(tmp_path / "a.jsonl", rows(AFTER, "m1"))], scorer,
        str(tmp_path / "t.md"),
    )  # fmt: skip
    lines = {line.name: line for line in found.lines}
    assert len(lines) == 14 and [name for name in lines if name.endswith(", intervals")] == list(lines)[7:]
    whole, part = lines["total event error"], lines["total event error, intervals"]
    assert (whole.before.estimate, whole.after.estimate) == pytest.approx((5 / 7, 3 / 7))
    assert (part.before.estimate, part.after.estimate) == pytest.approx((3 / 2, 1 / 2))
    assert (whole.num_rows, part.num_rows) == (2, 1)
    assert "| words per caption, intervals | 40.0 [40.0, 40.0] | 20.0 " in (tmp_path / "t.md").read_text()


def test_rows_of_one_clip_are_resampled_together(tmp_path):
    keys = ["a", "a", "b"]
    paths = [
        write(
            tmp_path / f"{name}.jsonl",
            [caption(i, c, key) for i, (c, key) in enumerate(zip(counts, keys, strict=True))],
        )
        for name, counts in (("before", BEFORE), ("after", AFTER))
    ]
    line = next(line for line in compare(paths[0], paths[1:], scorer, seed=4).lines if line.name == "missed")
    by_clip = [(torch.tensor([1, 3]), torch.tensor([6, 3])), (torch.tensor([1, 2]), torch.tensor([6, 3]))]
    assert line.difference == paired_bootstrap(*by_clip, seed=4)
    assert (line.num_rows, line.num_clips) == (3, 2)


def test_several_runs_are_pooled_and_resampled_with_the_clips(tmp_path, capsys):
    before = write(tmp_path / "before.jsonl", [caption(i, c) for i, c in enumerate(BEFORE)])
    runs = [
        write(tmp_path / f"after-{seed}.jsonl", [caption(i, c, model=f"m{seed}") for i, c in enumerate(counts)])
        for seed, counts in ((1, AFTER), (2, BEFORE))
    ]
    found = compare(before, runs, scorer, str(tmp_path / "table.md"), seed=4)
    line = next(line for line in found.lines if line.name == "missed")
    events = torch.tensor([4, 2, 3])
    after = torch.tensor([[1, 0, 2], [1, 0, 3]]), torch.stack([events, events])
    assert line.after == bootstrap_ratio(*after, seed=4)
    assert line.difference == paired_bootstrap((torch.tensor([1, 0, 3]), events), after, seed=4)
    assert line.difference.estimate == pytest.approx(-1 / 18)
    assert (line.num_rows, line.num_clips, found.num_rows, found.num_runs) == (3, 3, 3, 2)
    assert [model["name"] for model in found.models["after"]] == ["m1", "m2"]
    words = "3 rows of 3 clips; bootstrap over clips and 2 runs, seed 4"
    assert words in (tmp_path / "table.md").read_text() and words in capsys.readouterr().out
    # one run twice is that run, but for the draws of runs
    assert (
        compare(before, runs[:1] * 2, scorer, seed=4).lines[2].difference
        == compare(before, runs[:1], scorer, seed=4).lines[2].difference
    )


def test_questions(tmp_path):
    before = write(tmp_path / "before.jsonl", [question(0, "RED."), question(1, "green"), question(2, "a cat")])
    after = write(tmp_path / "after.jsonl", [question(0, "red"), question(1, " Red "), question(2, "DarkBlue. ")])
    accuracy, unanswered = compare(before, [after], scorer).lines
    assert (accuracy.name, unanswered.name) == ("question accuracy", "questions unanswered")
    assert (accuracy.before.estimate, accuracy.after.estimate) == pytest.approx((1 / 3, 2 / 3))
    assert (unanswered.before.estimate, unanswered.after.estimate) == pytest.approx((1 / 3, 0))


def test_written_table_and_json(tmp_path, capsys):
    before = write(tmp_path / "before.jsonl", [caption(i, c) for i, c in enumerate(BEFORE)] + [question(9, "red")])
    after = write(
        tmp_path / "after.jsonl", [caption(i, c, model="m1") for i, c in enumerate(AFTER)] + [question(9, "")]
    )
    lines = compare(before, [after], f"{__name__}.scorer", str(tmp_path / "out" / "table.md"), seed=3).lines
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len(table) == 2 + 7 + 2 + 1 + 3
    assert table[2].startswith("| order error | 25.0 % [")
    words = bootstrap_ratio(torch.tensor([20, 40, 5]), torch.ones(3), seed=3)
    assert f"| words per caption | 21.7 [{words.low:.1f}, {words.high:.1f}] | 14.0 [" in "\n".join(table)
    one_clip = "100.0 % [100.0, 100.0] | 0.0 % [0.0, 0.0] | -100.0 [-100.0, -100.0] | 1 / 1 |"
    assert table[9] == f"| question accuracy | {one_clip}"
    assert table[-3:] == [
        "- before: unnamed; m0 (weights m0-hash, base b0)",
        "- after: unnamed; m1 (weights m1-hash, base b0)",
        "- 4 rows of 4 clips; bootstrap over clips, seed 3",
    ]
    content = json.loads((tmp_path / "out" / "table.json").read_text(), parse_constant=pytest.fail)
    assert (content["num_rows"], content["seed"], content["scorer"]) == (4, 3, f"{__name__}.scorer")
    assert content["models"]["after"] == [None, {"base": "b0", "hash": "m1-hash", "name": "m1"}]
    assert content["lines"][1]["difference"]["low"] == lines[1].difference.low
    printed = capsys.readouterr().out
    assert "order error" in printed and all(line[2:] in printed for line in table[-3:])


def test_undefined_is_null_in_json(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", [caption(0, BEFORE[2])]) for name in ("before", "after")]
    lines = compare(paths[0], paths[1:], scorer, str(tmp_path / "table.md")).lines
    assert math.isnan(lines[0].difference.estimate)
    content = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert content["lines"][0]["difference"]["estimate"] is None


def test_ids_must_match(tmp_path):
    rows = [caption(i, c) for i, c in enumerate(BEFORE)]
    before, after = write(tmp_path / "b.jsonl", rows), write(tmp_path / "a.jsonl", rows[:1])
    with pytest.raises(ValueError, match=r"a.jsonl: 2 ids are missing after and 0 before \(such as c1, c2\)"):
        compare(before, [before, after], scorer)
    with pytest.raises(ValueError, match="0 ids are missing after and 2 before"):
        compare(after, [before], scorer)
    with pytest.raises(ValueError, match="2 rows with 1 different ids"):
        compare(write(tmp_path / "c.jsonl", rows[:1] * 2), [after], scorer)
    with pytest.raises(ValueError, match="does not exist"):
        compare(str(tmp_path / "none.jsonl"), [after], scorer)
    with pytest.raises(ValueError, match="needs a file to compare"):
        compare(before, [], scorer)


def test_a_line_separator_inside_a_response_is_no_new_row(tmp_path):
    row = {**question(0, "red\u2028"), "id": "q"}
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert compare(str(path), [str(path)], scorer).lines[0].before.estimate == 1


def test_scorer_by_dotted_path():
    assert load_scorer(f"{__name__}.scorer") is scorer
    for name in ("scorer", "no_such_package.scorer", f"{__name__}.BEFORE"):
        with pytest.raises(ValueError, match="dotted path"):
            load_scorer(name)
