"""The schedule of question pairs: from which round on, how many, the same ones whatever the ranks."""

import logging

import pytest

from lit_vpo.datamodules import QuestionMix, RoundPreferenceDataModule, Source, write_overlay

ROWS = [{"key": f"s{n % 6}", "id": f"q{n}", "prompt": "?", "chosen": "a", "rejected": "b"} for n in range(20)]


@pytest.mark.parametrize(
    "share, num_pairs, expected", [(0.25, 30, 10), (0.5, 7, 7), (0.2, 2, 0), (0.2, 3, 1), (0.5, 0, 0)]
)
def test_the_share_is_of_the_whole_round(share, num_pairs, expected):
    drawn = QuestionMix("", share).draw(ROWS, num_pairs, seed=0, round_index=1)
    assert len(drawn) == len({row["id"] for row in drawn}) == expected


def test_they_begin_with_their_round_and_each_round_draws_its_own():
    mix = QuestionMix("", 0.5, from_round=5)
    assert mix.draw(ROWS, 8, 0, 4) == []
    fifth, sixth = (mix.draw(ROWS, 8, 0, number) for number in (5, 6))
    assert [row["round"] for row in fifth] == [5] * 8 and all(row["id"].endswith("/round-5") for row in fifth)
    assert {row["id"].split("/")[0] for row in fifth} != {row["id"].split("/")[0] for row in sixth}
    assert mix.draw(ROWS, 8, 0, 5) == fifth != mix.draw(ROWS, 8, 1, 5)


def test_too_few_are_said(caplog):
    caplog.set_level(logging.WARNING)
    assert len(QuestionMix("", 0.5).draw(ROWS, 21, 0, 3)) == 20
    assert "round 3: its share of questions is 21, there are 20" in caplog.text


@pytest.mark.parametrize("wrong", [{"share": 0}, {"share": 1.0}, {"share": -0.1}, {"from_round": 0}])
def test_a_schedule_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"questions need a share in \(0, 1\) and from_round >= 1"):
        QuestionMix("", **wrong)


def test_the_mixed_overlay_is_the_same_for_every_number_of_ranks(shards, tmp_path):
    pairs = [{"key": f"s{n % 6}", "id": f"p{n}", "prompt": "?", "chosen": "c", "rejected": "d"} for n in range(9)]
    write_overlay(tmp_path / "first.jsonl", pairs)
    write_overlay(tmp_path / "questions.jsonl", ROWS)
    mixed, batches = [], []
    for world in (1, 2, 4):
        folder = tmp_path / str(world)
        folder.mkdir()
        train = Source(str(shards), str(tmp_path / "first.jsonl"))
        options = {"num_frames": 4, "size": 16, "batch_size": 2, "world_multiple": 1, "seed": 3}
        questions = QuestionMix(str(tmp_path / "questions.jsonl"), 0.25)
        data = RoundPreferenceDataModule("tiny_llava_onevision", train=train, questions=questions, **options)
        loader = data.train_dataloader()
        for rank in range(world):
            path = data.write_pairs(str(folder / "pairs.jsonl"), pairs[rank::world], rank, world)
        data.begin_round(path, 1)
        mixed.append((folder / "mixed.jsonl").read_bytes())
        batches.append([[record["id"] for record in batch["records"]] for batch in loader])
        assert loader.state_dict()["overlay"] == str(folder / "mixed.jsonl")
    assert mixed[0] == mixed[1] == mixed[2] and batches[0] == batches[1] == batches[2]
    assert sum(row.startswith("q") for batch in batches[0] for row in batch) == 3
