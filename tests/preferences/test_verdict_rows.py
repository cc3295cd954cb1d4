"""Verdict rows on disk: all ranks' rows come back, and what cannot be read is named."""

import json

import pytest

from lit_vpo.metrics import verbosity_metrics
from lit_vpo.preferences.verdict_rows import read_verdicts, round_verdicts, run_verdicts


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(make_verdict):
    return [make_verdict(name, ["one two", "three"], (1, 1 + n % 2)) for n, name in enumerate("abcde")]


def test_one_rank_equals_two(tmp_path, rows):
    write(tmp_path / "one" / "verdicts.0-1.jsonl", rows)
    for rank in range(2):
        write(tmp_path / "two" / f"verdicts.{rank}-2.jsonl", rows[rank::2])
    one, two = round_verdicts(tmp_path / "one"), round_verdicts(tmp_path / "two")
    assert one == rows and sorted(two, key=lambda row: row["id"]) == rows
    assert verbosity_metrics(one) == verbosity_metrics(two)


def test_a_run_reads_the_files_of_its_own_ranks(tmp_path, rows):
    write(tmp_path / "verdicts.0-1.jsonl", rows)
    write(tmp_path / "verdicts.0-2.jsonl", rows[:2])  # of a life on two ranks that was given up
    assert round_verdicts(tmp_path, 1) == rows
    with pytest.raises(ValueError, match="verdicts of runs with 1, 2 ranks; remove"):
        round_verdicts(tmp_path)
    with pytest.raises(ValueError, match=r"lacks verdicts\.1-2\.jsonl: did the resampler judge on every rank"):
        round_verdicts(tmp_path, 2)
    with pytest.raises(ValueError, match="a resampler that judges"):
        round_verdicts(tmp_path / "none")


def test_a_run_that_goes_on_with_other_ranks_reads_what_lies_there(tmp_path, rows):
    write(tmp_path / "verdicts.0-1.jsonl", rows)
    assert round_verdicts(tmp_path, 4) == rows


def test_the_rows_of_a_run_come_by_iteration(tmp_path, rows):
    for k in (10, 0, 2):
        own = [row | {"iteration": k + 1} for row in rows]
        write(tmp_path / "run" / "rounds" / str(k) / "verdicts.0-1.jsonl", own)
        write(tmp_path / "staged" / f"pairs-{k}.verdicts.jsonl", own)
    write(tmp_path / "run" / "rounds" / "3" / "candidates.0-1.jsonl", rows)
    found = run_verdicts(tmp_path / "run")
    assert list(found) == [1, 3, 11] and found[3] == [row | {"iteration": 3} for row in rows]
    assert run_verdicts(tmp_path / "staged") == found
    write(tmp_path / "staged" / "again.verdicts.jsonl", rows)
    with pytest.raises(ValueError, match=r"5 prompts are judged twice: a \(iteration 1\)"):
        run_verdicts(tmp_path / "staged")
    with pytest.raises(ValueError, match="give the --run_dir of a `fit` whose resampler judges"):
        run_verdicts(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"answers": ["one"]}, "answers"),
        ({"choice": 3}, "choice"),
        ({"choice": True}, "choice"),
        ({"reason": "equal"}, "reason"),  # a choice needs none
        ({"choice": None}, "reason"),  # and no choice needs one
        ({"choices": [1, "2"]}, "choices"),
        ({"iteration": "1"}, "iteration"),
        ({"judge": None}, "judge"),
        ({"id": 3, "key": None}, "key, id"),
    ],
)
def test_a_row_that_is_no_verdict_is_named(tmp_path, rows, change, message):
    path = write(tmp_path / "v.jsonl", [rows[0], rows[2] | change])
    with pytest.raises(ValueError, match=rf"v\.jsonl, line 2: no verdict row; wrong or missing: {message}$"):
        read_verdicts(path)


def test_a_cut_line_a_list_a_doubled_prompt_and_no_file(tmp_path, rows):
    path = write(tmp_path / "v.jsonl", rows[:1])
    path.write_text(path.read_text() + '{"key": "b", "id"')
    with pytest.raises(ValueError, match=r"line 2: no JSON .* resume it"):
        read_verdicts(path)
    with pytest.raises(ValueError, match="not an object"):
        read_verdicts(write(path, [[]]))
    with pytest.raises(ValueError, match=r"1 prompts are judged twice: a \(iteration 1\)"):
        read_verdicts(write(path, [rows[0], rows[0]]))
    assert len(read_verdicts(write(path, [rows[0], rows[0] | {"iteration": 2}]))) == 2
    with pytest.raises(ValueError, match="does not exist"):
        read_verdicts(tmp_path / "none")
