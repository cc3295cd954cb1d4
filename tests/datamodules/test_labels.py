"""Shuffled labels: half of the pairs, the same half always, in training alone."""

import pytest

from lit_vpo.datamodules import PreferenceDataModule, RoundPreferenceDataModule, Source, write_overlay
from lit_vpo.datamodules.labels import shuffled_labels


def pair(number, **more):
    return {"id": f"p{number}", "key": f"s{number}", "chosen": f"a cat {number}", "rejected": "a dog"} | more


def test_response_view_and_score_change_places_together():
    record = pair(0, views={"rejected": {"frame_order": [1, 0]}}, scores={"chosen": 0.1, "rejected": 0.4}, meta={})
    swapped = {"chosen": "a dog", "rejected": "a cat 0", "views": {"chosen": {"frame_order": [1, 0]}}}
    swapped = record | swapped | {"scores": {"chosen": 0.4, "rejected": 0.1}}
    seen = [shuffled_labels(record, seed) for seed in range(20)]
    assert record in seen and swapped in seen and all(each in (record, swapped) for each in seen)


def test_the_draw_is_fair_and_belongs_to_the_id():
    swaps = [shuffled_labels(pair(n), seed=0)["chosen"] == "a dog" for n in range(1000)]
    assert sum(swaps) == pytest.approx(500, abs=50)
    assert swaps == [shuffled_labels(pair(n), seed=0)["chosen"] == "a dog" for n in range(1000)]
    assert swaps != [shuffled_labels(pair(n), seed=1)["chosen"] == "a dog" for n in range(1000)]


def test_a_record_without_a_pair_stays():
    record = {"id": "r", "mode": "sft", "ground_truth": "a cat"}
    assert all(shuffled_labels(record, seed) == record for seed in range(10))


def texts(loader):
    return {record["id"]: record["chosen"] for batch in loader for record in batch["records"]}


def test_training_sees_drawn_labels_in_every_round_and_validation_the_true_ones(shards, tmp_path):
    rows = [pair(n) for n in range(6)]
    later = [row | {"id": f"{row['id']}/round-1"} for row in rows]
    write_overlay(tmp_path / "pairs.jsonl", rows)
    write_overlay(tmp_path / "later.jsonl", later)
    source = Source(str(shards), str(tmp_path / "pairs.jsonl"))
    options = {"num_frames": 4, "size": 16, "batch_size": 2, "world_multiple": 1, "seed": 3, "shuffle_labels": True}
    data = RoundPreferenceDataModule("tiny_llava_onevision", train=source, val=source, **options)
    train = data.train_dataloader()
    first = texts(train)
    assert first == {row["id"]: shuffled_labels(row, 3)["chosen"] for row in rows}
    data.begin_round(str(tmp_path / "later.jsonl"), 1)
    assert texts(train) == {row["id"]: shuffled_labels(row, 3)["chosen"] for row in later}
    true = {row["id"]: row["chosen"] for row in rows}
    assert texts(data.val_dataloader()[0]) == true != first


def test_what_a_step_holds_goes_by_the_drawn_labels(shards, tmp_path):
    write_overlay(tmp_path / "pairs.jsonl", [pair(n, chosen="a cat and a dog") for n in range(6)])
    source = Source(str(shards), str(tmp_path / "pairs.jsonl"))
    options = {"num_frames": 4, "size": 16, "batch_size": 1, "world_multiple": 1, "shuffle_labels": True}
    data = PreferenceDataModule("tiny_llava_onevision", train=source, **options)
    held = [
        (batch["window"]["chosen"].token, int((batch["labels"][0] != -100).sum())) for batch in data.train_dataloader()
    ]
    assert len(held) == 6 and len(set(held)) == 2 and all(window == tokens for window, tokens in held)


def test_a_run_is_not_resumed_with_other_labels(shards, tmp_path):
    write_overlay(tmp_path / "pairs.jsonl", [pair(n) for n in range(6)])
    source = Source(str(shards), str(tmp_path / "pairs.jsonl"))
    plain, drawn = (
        PreferenceDataModule("tiny_llava_onevision", train=source, num_frames=4, size=16, shuffle_labels=shuffle)
        for shuffle in (False, True)
    )
    with pytest.raises(ValueError, match="overlay_hash"):
        drawn.train_dataloader().load_state_dict(plain.train_dataloader().state_dict())


def test_several_rejected_responses_cannot_be_shuffled():
    with pytest.raises(ValueError, match="num_negatives must be 1, got 2"):
        PreferenceDataModule("unused", num_negatives=2, shuffle_labels=True)
