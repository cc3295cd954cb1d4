import pytest
import torch
from lightning import LightningModule, Trainer
from resuming import Keys

from lit_vpo.callbacks import DataFaults
from lit_vpo.datamodules import (
    InstructionDataModule,
    OverlayShare,
    PreferenceDataModule,
    PromptDataModule,
    Source,
    read_quarantine,
    write_overlay,
)


@pytest.fixture
def pairs(tmp_path):
    rows = [{"key": f"s{n}", "chosen": f"a cat {n}", "rejected": "a dog"} for n in range(6)]
    options = {"meta": {"options": ["yes", "no"]}, "ground_truth": "no"}
    write_overlay(tmp_path / "questions.jsonl", [{"key": f"s{n}", **options} for n in range(3)])
    write_overlay(tmp_path / "pairs.jsonl", rows)
    return tmp_path


@pytest.fixture
def make():
    def datamodule(kind, **options):
        return kind("tiny_llava_onevision", **({"num_frames": 4, "batch_size": 4, "size": 16} | options))

    return datamodule


class Kinds(LightningModule):
    """Notes kind, loader and ids of every batch of evaluation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.append((dataloader_idx, batch["kind"], [record["key"] for record in batch["records"]]))

    test_step = predict_step = validation_step


def test_evaluation_goes_over_main_source_prompts_and_questions(make, shards, pairs):
    main, bounded = Source(str(shards), str(pairs / "pairs.jsonl")), Source(str(shards), limit=2)
    questions = Source(str(shards), str(pairs / "questions.jsonl"))
    expected = [
        (0, "preference", ["s0", "s1", "s2", "s3"]),
        (0, "preference", ["s4", "s5"]),
        (1, "prompt", ["s0", "s1"]),
        (2, "question", ["s0", "s1", "s2"]),
    ]
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    for stage in ("val", "test"):
        sources = {stage: main, f"{stage}_prompts": bounded, f"{stage}_questions": questions}
        module = Kinds()
        (trainer.validate if stage == "val" else trainer.test)(
            module, make(PreferenceDataModule, **sources), verbose=False
        )
        assert module.seen == expected
    module = Kinds()
    trainer.predict(module, make(PromptDataModule, predict=bounded), return_predictions=False)
    assert module.seen == [(0, "prompt", ["s0", "s1"])]


def test_the_train_loader_is_kept_and_counts_quarantined_samples(make, shards, pairs, tmp_path):
    write_overlay(
        tmp_path / "bad.jsonl",
        [{"key": "s0", "chosen": "x", "rejected": "x"}, {"key": "s1", "chosen": "x", "rejected": "y"}],
    )
    data = make(PreferenceDataModule, train=Source(str(shards), str(tmp_path / "bad.jsonl")), quarantine=str(tmp_path))
    assert data.train_loader is None and data.num_quarantined == 0
    loader = data.train_dataloader()
    assert data.train_loader is loader and [len(batch["records"]) for batch in loader] == [1]
    assert data.num_quarantined == 1 and (tmp_path / "quarantine.jsonl").exists()


def test_ground_truth_rows_are_asked_for(make, shards, pairs):
    source = Source(str(shards), str(pairs / "pairs.jsonl"))
    for with_ground_truth, rows in ((False, 8), (True, 12)):
        data = make(PreferenceDataModule, train=source, with_ground_truth=with_ground_truth)
        batch = next(iter(data.train_dataloader()))
        assert batch["has_ground_truth"] is with_ground_truth and len(batch["input_ids"]) == rows


def test_a_control_trains_on_black_frames_of_the_same_shape_and_is_evaluated_on_the_videos(make, shards, pairs):
    source = Source(str(shards), str(pairs / "pairs.jsonl"))
    data, sees = (make(PreferenceDataModule, train=source, val=source, blank_videos=blank) for blank in (True, False))
    (black, *_), (seen, *_) = list(data.train_dataloader()), list(sees.train_dataloader())
    name = next(name for name in seen["media"] if name.startswith("pixel_values"))
    assert black["media"][name].shape == seen["media"][name].shape
    assert len(black["media"][name].unique()) <= 3 < len(seen["media"][name].unique())  # one tone for each channel
    for key in ("input_ids", "labels"):
        assert torch.equal(black[key], seen[key])
    evaluated, true = (next(iter(each.val_dataloader()[0])) for each in (data, sees))
    assert torch.equal(evaluated["media"][name], true["media"][name])


def test_wrong_settings_are_refused_at_construction(shards):
    for options, message in (
        ({"num_frames": 0}, "num_frames must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be >= 1"),
        ({"num_workers": -1}, "num_workers must be >= 0"),
        ({"on_bad_sample": "skip"}, "on_bad_sample"),
        ({"world_multiple": 0}, "world_multiple must be >= 1"),
        ({"tokens_per_batch": 0}, "tokens_per_batch must be >= 1"),
        ({"max_bad_fraction": 1.1}, "max_bad_fraction must lie in 0..1"),
    ):
        with pytest.raises(ValueError, match=message):
            InstructionDataModule("unused", **options)


def test_a_stage_asks_only_for_the_sources_it_reads(make, shards):
    good, absent = Source(str(shards)), Source("absent")
    data = make(PromptDataModule, predict=good, train=absent, val=absent, test_questions=absent)
    data.setup("predict")
    for stage, name in (("fit", "train"), ("validate", "val"), ("test", "test_questions")):
        with pytest.raises(ValueError, match=f"data.{name}.shards: absent is not a folder; .*data pack"):
            data.setup(stage)
    with pytest.raises(ValueError, match=r"data.val_prompts.shards: absent"):
        make(InstructionDataModule, train=good, val_prompts=absent).setup("fit")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("fit", "fit needs data.train; give it as train: {shards: FOLDER}"),
        ("validate", "validate needs data.val or data.val_prompts or data.val_questions"),
        ("test", "test needs data.test or data.test_prompts"),
        ("predict", "predict needs data.predict"),
    ],
)
def test_a_stage_without_a_source_of_its_own_is_refused_by_key(make, shards, stage, message):
    source = Source(str(shards))
    options = {"val": source} if stage in ("fit", "predict") else {"train": source, "predict": source}
    with pytest.raises(ValueError, match=message):
        make(InstructionDataModule, **options).setup(stage)


def test_predict_either_answers_or_scores(make, shards):
    source = Source(str(shards))
    with pytest.raises(ValueError, match=r"leave out data\.predict or data\.predict_questions"):
        make(InstructionDataModule, predict=source, predict_questions=source).setup("predict")


def test_bad_samples_of_every_loader_are_counted_and_written_into_the_runs_folder(make, shards, tmp_path):
    for number, name in enumerate(("train", "predict")):
        write_overlay(tmp_path / f"{name}.jsonl", [{"key": f"s{number}", "prompt": ""}, {"key": "s3"}])
    sources = {name: Source(str(shards), str(tmp_path / f"{name}.jsonl")) for name in ("train", "predict")}
    data = make(PromptDataModule, **sources)
    data.trainer = Trainer(default_root_dir=tmp_path / "run", logger=False, accelerator="cpu")
    list(data.train_dataloader())
    list(data.predict_dataloader())
    assert data.num_quarantined == 2
    lines = read_quarantine(tmp_path / "run")
    assert [(line["key"], line["reason"], line["stage"]) for line in lines] == [
        ("s0", "empty prompt", "run"),
        ("s1", "empty prompt", "run"),
    ]


def test_pair_arguments_reach_the_base(make):
    data = make(PreferenceDataModule, with_ground_truth=True, seed=7, num_workers=3)
    assert (data.with_ground_truth, data.seed, data.num_workers) == (True, 7, 3)
    with pytest.raises(TypeError, match="unknown"):
        make(PreferenceDataModule, unknown=1)


def test_negatives_are_asked_for(make, shards, tmp_path):
    rows = [
        {"key": f"s{n}", "chosen": "a cat", "rejected": "a dog", "negatives": [{"text": "a bird"}]} for n in range(4)
    ]
    write_overlay(tmp_path / "pairs.jsonl", rows)
    source = Source(str(shards), str(tmp_path / "pairs.jsonl"))
    for number, num_rows in ((1, 8), (2, 12)):
        data = make(PreferenceDataModule, train=source, num_negatives=number)
        assert len(next(iter(data.train_dataloader()))["input_ids"]) == num_rows
    with pytest.raises(ValueError, match="num_negatives must be >= 1, got 0"):
        PreferenceDataModule("unused", num_negatives=0)


def test_the_loader_knows_ranks_and_accumulation_of_its_trainer(make, shards, pairs):
    data = make(PreferenceDataModule, train=Source(str(shards), str(pairs / "pairs.jsonl")), batch_size=2)
    assert data.train_dataloader().position.accumulate == 1
    data.trainer = Trainer(accumulate_grad_batches=3, logger=False, accelerator="cpu", enable_progress_bar=False)
    assert data.train_dataloader().position.accumulate == 3


def test_ranks_whose_data_differ_are_refused_by_name(make, shards, pairs, monkeypatch):
    """Rank 0 has a row less, or read another number of tokens."""
    options = {"train": Source(str(shards), str(pairs / "pairs.jsonl")), "tokens_per_batch": 1000}
    first = make(PreferenceDataModule, **options).train_dataloader().state_dict()
    for name in ("overlay_hash", "lengths_hash"):
        data = make(PreferenceDataModule, **options)
        data.trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
        monkeypatch.setattr(data.trainer.strategy, "broadcast", lambda own, name=name: first | {name: "other"})
        with pytest.raises(ValueError, match=f"rank 0 has {name} .*rank 0 has 'other'; every rank needs the same"):
            data.train_dataloader()
    data.trainer.strategy.broadcast = lambda own: own
    assert data.train_dataloader().state_dict() == first


def test_overlays_are_mixed_by_weight(make, shards, tmp_path):
    for name in ("easy", "hard"):
        rows = [{"key": f"s{n}", "id": f"{name}{n}", "chosen": "a cat", "rejected": "a dog"} for n in range(6)]
        write_overlay(tmp_path / f"{name}.jsonl", rows)
    easy, hard = (OverlayShare(f"{tmp_path}/{name}.jsonl", w) for name, w in (("easy", 0.5), ("hard", 1.0)))
    data = make(PreferenceDataModule, train=Source(str(shards), [easy, hard]))
    loader = data.train_dataloader()
    epochs = [[record["id"] for batch in loader for record in batch["records"]] for _ in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 9
        assert sorted(name for name in epoch if "hard" in name) == [f"1/hard{n}" for n in range(6)]
    assert len({str(sorted(epoch)) for epoch in epochs}) > 1  # another half of the easy ones each time


def test_the_faults_of_a_run_are_logged_by_reason(make, shards, tmp_path):
    rows = [{"key": f"s{n}", "id": f"r{n}", "chosen": "a cat", "rejected": "a cat"} for n in range(2)]
    rows += [{"key": f"s{n}", "id": f"g{n}", "chosen": "a cat", "rejected": "a dog"} for n in range(6)]
    write_overlay(tmp_path / "rows.jsonl", rows)
    data = make(PreferenceDataModule, train=Source(str(shards), str(tmp_path / "rows.jsonl")), batch_size=1)
    options = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, callbacks=[DataFaults()], default_root_dir=tmp_path, **options)
    trainer.fit(Keys(), data)
    assert trainer.callback_metrics["data/num_quarantined"] == 2
    assert trainer.callback_metrics["data/quarantined/chosen_rejected"] == 2
