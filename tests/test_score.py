import json
import math

import pytest
import torch

from lit_vpo.cli import main
from lit_vpo.metrics import CaptionCounts, bootstrap_ratio
from lit_vpo.score import score

MODEL = {"name": "m", "hash": "h", "base": "b"}


def scorer(caption, record):
    """Every word "no" is a hallucination, every "twice" a repetition; two events, one pair in the right order."""
    words = caption.split()
    return CaptionCounts(2, 1, 0, words.count("no"), 0, 1, 1, words.count("twice"), len(words), 0)


def row(number, task, response, key=None, **fields):
    meta = {"task": task, **fields.pop("meta", {})}
    return {
        "id": f"r{number}",
        "key": key or f"k{number}",
        "response": response,
        "finished": True,
        "meta": meta,
        "model": MODEL,
        **fields,
    }


ROWS = [
    row(0, "caption", "no one", "a"),
    row(1, "caption", "all went well twice", "a"),
    row(2, "caption", "no no no", "b"),
    row(3, "question", "Red.", ground_truth="red", meta={"options": ["red", "blue"]}),
    row(4, "question", "a cat", ground_truth="red", meta={"options": ["red", "blue", "green", "grey"]}),
    row(5, "paragraph", "One. Two.", ground_truth="One. Two.", media={"video": None}, events=[]),
    row(6, "paragraph", "Two. One.", ground_truth="One. Two.", media={"video": None}, events=[]),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    return str(path)


def test_each_task_is_scored_by_its_own_measure(file):
    lines = {(line.task, line.name): line for line in score([file], scorer)[file]}
    values = {name: line.value for name, line in lines.items()}
    expected = {
        ("caption", "order error"): 0,
        ("caption", "total event error"): (3 + 4) / 6,
        ("caption", "missed"): 0.5,
        ("caption", "incorrect"): 0,
        ("caption", "hallucinated"): 4 / 6,
        ("caption", "repetition"): 1 / 3,
        ("caption", "words per caption"): 3,
        ("caption", "words, 10th percentile"): 2.2,
        ("caption", "words, 90th percentile"): 3.8,
        ("caption", "words, p90 / p10"): 3.8 / 2.2,
        ("question", "question accuracy"): 0.5,
        ("question", "questions unanswered"): 0.5,
        ("question", "chance"): (1 / 2 + 1 / 4) / 2,
        ("paragraph", "equals the truth"): 0.5,
    }
    assert list(values) == list(expected)
    assert values == {name: pytest.approx(value) for name, value in expected.items()}
    hallucinated = lines["caption", "hallucinated"]
    interval = bootstrap_ratio(torch.tensor([1, 3]), torch.tensor([4, 2]), seed=0)  # by clip
    assert hallucinated.ends == (interval.low, interval.high)
    assert (hallucinated.num_rows, hallucinated.num_clips) == (3, 2)
    assert lines["caption", "words, p90 / p10"].ends is None


def test_the_command_writes_the_table_and_names_the_base(file, tmp_path, capsys):
    out = tmp_path / "deep" / "skills.md"
    main(["score", file, file.replace("g.jsonl", "./g.jsonl"), "--scorer", f"{__name__}.scorer", "--out", str(out)])
    text = out.read_text()
    assert text.count("| question | question accuracy | 50.0 % [") == 2
    assert text.count("- m (weights h, base b); 7 rows; bootstrap over clips, seed 0\n") == 2
    content = json.loads(out.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert content[file]["models"] == [MODEL] and len(content[file]["lines"]) == 14
    printed = capsys.readouterr().out
    assert "question accuracy" in printed and "m (weights h, base b)" in printed


def test_empty_answers_have_no_finite_spread(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(row(0, "caption", "")) + "\n")
    spread = score([str(path)], scorer, str(tmp_path / "s.md"))[str(path)][-1]
    assert math.isnan(spread.value) or math.isinf(spread.value)
    content = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert content[str(path)]["lines"][-1]["value"] is None


def test_a_scorer_that_does_not_fit_says_which_does(file):
    with pytest.raises(ValueError, match=r"record 'r0' has no `events`.*scorer"):
        score([file], "lit_vpo.datamodules.motion_world.score_caption")
