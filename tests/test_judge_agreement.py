"""Agreement on the command line: with the exact judge by iteration and context, and with people who rated blindly."""

import csv
import json
from pathlib import Path

import pytest

from lit_vpo.cli import main
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.motion_world import score_caption
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.judge_agreement import judge_agreement
from lit_vpo.metrics import CaptionCounts
from lit_vpo.preferences.blind import chosen_side


def scorer(caption, record):
    """Every "no" is a hallucination."""
    words = caption.split()
    return CaptionCounts(2, 0, 0, words.count("no"), 0, 1, 1, 0, len(words), 0)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def verdicts(make_verdict, tmp_path):
    right, wrong = ["no star", "a star"], ["no star at all", "a star"]
    rows = [
        make_verdict("a", right, (2, 2)),
        make_verdict("b", right, (1, 1)),
        make_verdict("c", wrong, (1, 1)),  # of other lengths
        make_verdict("d", ["a star", "a box"], (1, 1)),  # a tie to the exact judge
        make_verdict("e", right, (1, 2)),
        make_verdict("a", right, (2, 2), iteration=2, judge={"judge": "random"}),
    ]
    alone = [
        make_verdict("a", right, (1, 1), context=None),
        make_verdict("b", right, (2, 2), context=None, iteration=2),
    ]
    return [write(tmp_path / "with.jsonl", rows), write(tmp_path / "without.jsonl", alone)]


def test_every_iteration_context_and_judge_stands_apart(verdicts):
    lines = judge_agreement(verdicts, scorer=scorer)
    found = {
        (line.iteration, line.context, line.judge, line.pairs): (
            line.found.accuracy.estimate,
            line.num_rows,
            line.found.num_pairs,
            line.found.num_tied,
        )
        for line in lines
    }
    everything = {
        (1, "with", "1", "all"): (1 / 3, 5, 4, 1),
        (1, "with", "1", "matched"): (1 / 2, 4, 3, 1),
        (1, "without", "1", "all"): (0, 1, 1, 0),
        (1, "without", "1", "matched"): (0, 1, 1, 0),
        (2, "with", "2", "all"): (1, 1, 1, 0),
        (2, "with", "2", "matched"): (1, 1, 1, 0),
        (2, "without", "1", "all"): (1, 1, 1, 0),
        (2, "without", "1", "matched"): (1, 1, 1, 0),
    }
    assert found == {name: pytest.approx(values) for name, values in everything.items()}


def test_the_command_writes_the_table_and_names_the_judges(verdicts, tmp_path, capsys):
    out = tmp_path / "deep" / "agreement.md"
    main(["agreement", *verdicts, "--scorer", f"{__name__}.scorer", "--out", str(out)])
    text = out.read_text()
    assert "| 1 | with | 1 | all | 33.3 % [" in text and "| 5 / 4 / 1 |" in text
    assert f"- exact judge: {__name__}.scorer\n" in text and '- judge 2: {"judge": "random"}\n' in text
    content = json.loads(out.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert len(content["lines"]) == 8 and content["lines"][2]["found"]["kappa"] is not None
    assert 'judge 1: {"judge": "self"}' in capsys.readouterr().out


def test_motion_worlds_judge_reads_verdict_rows(world, make_verdict, tmp_path):
    truth = RecordReader(Manifest.load(world), Overlay.load(world / "captions.jsonl")).record(0)
    answers = ["Nothing happens.", truth["ground_truth"]]
    row = truth | make_verdict(truth["id"], answers, (2, 2), key=truth["key"])
    (line, _) = judge_agreement([write(tmp_path / "v.jsonl", [row])], scorer=score_caption)
    assert (line.found.accuracy.estimate, line.found.num_pairs) == (1, 1)


@pytest.fixture
def pairs(world, tmp_path):
    keys = [json.loads(line)["key"] for line in (world / "captions.jsonl").read_text().splitlines()]
    rows = [
        {"key": keys[0], "id": f"p-{n}", "prompt": "?", "chosen": "a b", "rejected": "c d" + " e" * (n == 5)}
        | {"meta": {"judge": {"judge": "self"}}}
        for n in range(8)
    ]
    return write(tmp_path / "pairs.jsonl", rows)


def fill_in(sheet, answers):
    with sheet.open(newline="") as file:
        head, *lines = csv.reader(file)
    with sheet.open("w", newline="") as file:
        csv.writer(file).writerows([head, *([name, answers[name], shown] for name, _, shown in lines)])


def test_a_blind_page_filled_in_comes_back_as_agreement(world, pairs, tmp_path, capsys):
    page, sheet = tmp_path / "blind.html", tmp_path / "blind.csv"
    show = ["data", "show", pairs, "--shards", str(world), "--blind", "--n", "7", "--seed", "11", "--out", str(page)]
    main(show)
    assert page.read_text().count("<section>") == 7
    with sheet.open(newline="") as file:
        assert [line[:2] for line in csv.reader(file)] == [["id", "better"], *([f"p-{n}", ""] for n in range(7))]
    chosen = [chosen_side(11, f"p-{n}") for n in range(7)]
    # found the chosen one better three times, the other one twice, saw no difference once, said nothing once
    answers = [*map(str, chosen[:3]), *(str(3 - side) for side in chosen[3:5]), "tie", ""]
    fill_in(sheet, {f"p-{n}": answer for n, answer in enumerate(answers)})
    everything, matched = judge_agreement([pairs], labels=str(sheet), seed=11)
    assert (everything.num_rows, everything.found.num_pairs, everything.found.num_tied) == (7, 6, 1)
    assert everything.found.accuracy.estimate == pytest.approx(3 / 5)
    assert (matched.num_rows, matched.found.num_pairs, matched.found.num_tied) == (6, 5, 0)
    main(["agreement", pairs, "--labels", str(sheet), "--seed", "11"])
    printed = capsys.readouterr().out
    assert "7 pairs, 1 of them unanswered" in printed and 'judge 1: {"judge": "self"}' in printed
    with pytest.raises(ValueError, match=r"shown otherwise.*give the --seed"):
        main(["agreement", pairs, "--labels", str(sheet)])
    with pytest.raises(ValueError, match="may hold answers"):
        main(show)


def test_what_does_not_fit_is_named(verdicts, pairs, tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("id,better,shown\nother,2,x\n")
    with pytest.raises(ValueError, match="rates 1 pairs that are not given: other; give the overlay"):
        judge_agreement([pairs], labels=str(sheet))
    copy = write(tmp_path / "copy.jsonl", map(json.loads, Path(pairs).read_text().splitlines()))
    with pytest.raises(ValueError, match="id 'p-0' stands twice"):
        judge_agreement([pairs, copy], labels=str(sheet))
    with pytest.raises(ValueError, match="a file is given twice"):
        judge_agreement([verdicts[0], verdicts[0]], scorer=scorer)
    with pytest.raises(ValueError, match="needs id, chosen and rejected"):
        judge_agreement([verdicts[1]], labels=str(sheet))
    for both in ({}, {"scorer": scorer, "labels": str(sheet)}):
        with pytest.raises(ValueError, match="give one of the two"):
            judge_agreement([pairs], **both)
