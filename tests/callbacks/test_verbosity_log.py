"""A round's verbosity in the logs: once, before its first batch, wherever the callback stands, also after a cut."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_vpo.callbacks import LoRAMergeReinit, RoundCallback, RoundStop, Verbosity
from lit_vpo.callbacks.round_stop import ERROR, LENGTH_RATIO
from lit_vpo.lora import LoRASettings
from lit_vpo.metrics import CaptionCounts
from lit_vpo.modules import DPOModule

NAME = "tiny_qwen2_5_vl"


def scorer(caption, record):
    """Every word is an error: the shorter answer is better."""
    return CaptionCounts(2, 0, 0, len(caption.split()), 0, 1, 1, 0, 1, 0)


class Judging(RoundCallback):
    """Stands for a resampler: after round k the chosen answers have `lengths[k]` words, the rejected ones two."""

    def __init__(self, make_verdict, lengths, starts=True):
        super().__init__()
        self.make_verdict, self.lengths, self.starts = make_verdict, lengths, starts

    def on_train_start(self, trainer, pl_module):
        if self.starts and pl_module.round == 0:
            self.on_round_end(trainer, pl_module, 0)

    def on_round_end(self, trainer, module, round_index):
        if round_index < len(self.lengths):
            folder = Path(trainer.default_root_dir) / "rounds" / str(round_index)
            folder.mkdir(parents=True, exist_ok=True)
            row = self.make_verdict("a", ["word " * self.lengths[round_index], "a b"], iteration=round_index)
            (folder / "verdicts.0-1.jsonl").write_text(json.dumps(row) + "\n")


class Validated(DPOModule):
    def on_validation_epoch_end(self):
        self.log(ERROR, torch.tensor(1.0 / (1 + self.round)))


def fit(folder, make_batch, callbacks, steps=6, ckpt=None):
    batch = make_batch("preference", NAME)
    batches = [torch.utils.data.DataLoader([batch] * n, batch_size=None) for n in (20, 1)]
    saver = ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = Trainer(
        default_root_dir=folder,
        logger=CSVLogger(folder, name="csv"),
        max_steps=steps,
        val_check_interval=2,
        log_every_n_steps=50,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[LoRAMergeReinit(), *callbacks, saver],
    )
    module = Validated(NAME, lora=LoRASettings(r=2, alpha=4), round_steps=2, check_video=False)
    trainer.fit(module, *batches, ckpt_path=ckpt)
    return trainer


def logged(folder, version=0, name="verbosity/length_ratio"):
    with (folder / "csv" / f"version_{version}" / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]


def test_every_round_is_logged_once_also_where_the_callback_stands_first(tmp_path, make_batch, make_verdict):
    fit(tmp_path, make_batch, [Verbosity(scorer), Judging(make_verdict, [1, 2, 3])])
    assert logged(tmp_path) == [(0, 0.5), (1, 1.0), (3, 1.5)]
    assert logged(tmp_path, name="verbosity/chosen_words") == [(0, 1), (1, 2), (3, 3)]
    # of answers that are as long the exact judge prefers neither
    accuracy = logged(tmp_path, name="verbosity/judge_accuracy")
    assert (accuracy[0], accuracy[2]) == ((0, 1), (3, 0)) and math.isnan(accuracy[1][1])


def test_a_resumed_run_logs_what_the_straight_one_would(tmp_path, make_batch, make_verdict):
    fit(tmp_path, make_batch, [Judging(make_verdict, [1, 2, 3]), Verbosity()], steps=3)
    assert logged(tmp_path) == [(0, 0.5), (1, 1.0)]
    for step, rest in ((2, [(1, 1.0), (3, 1.5)]), (3, [(3, 1.5)])):
        ckpt = tmp_path / "steps" / f"step={step}.ckpt"
        fit(tmp_path, make_batch, [Judging(make_verdict, [1, 2, 3]), Verbosity()], ckpt=ckpt)
        assert logged(tmp_path, version=step - 1) == rest


def test_a_module_without_rounds_is_refused():
    with pytest.raises(ValueError, match="Verbosity needs a module with rounds"):
        Verbosity().setup(Trainer(accelerator="cpu", logger=False), torch.nn.Module(), "fit")


def test_training_stops_before_a_round_whose_pairs_are_too_verbose(tmp_path, make_batch, make_verdict):
    stop = RoundStop(length_ratio=1.3)
    trainer = fit(tmp_path, make_batch, [Judging(make_verdict, [4, 2, 3, 2]), stop], steps=8)
    assert trainer.global_step == 4  # round 0 is what the bound is not about: nobody stops before the first step
    assert [seen[LENGTH_RATIO] for seen in stop.history] == [1.0, 1.5]
    assert stop.reason() == "chosen answers have 1.50 times the words of rejected ones"


def test_neither_pairs_made_before_the_run_nor_the_last_round_need_verdicts(tmp_path, make_batch, make_verdict):
    stop = RoundStop(length_ratio=1.3)
    fit(tmp_path, make_batch, [Judging(make_verdict, [1, 2], starts=False), Verbosity(), stop], steps=4)
    assert [seen.get(LENGTH_RATIO) for seen in stop.history] == [1.0, None]
    assert logged(tmp_path) == [(1, 1.0)]


@pytest.mark.parametrize("callback", [Verbosity(), RoundStop(length_ratio=1.3)], ids=["log", "stop"])
def test_a_round_between_without_verdicts_is_an_error(tmp_path, make_batch, callback):
    with pytest.raises(ValueError, match=r"rounds/1 holds no verdicts"):
        fit(tmp_path, make_batch, [callback], steps=4)


def test_a_bound_below_equal_lengths_is_refused():
    with pytest.raises(ValueError, match="length_ratio >= 1"):
        RoundStop(length_ratio=0.9)
