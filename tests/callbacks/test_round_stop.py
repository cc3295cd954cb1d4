"""When rounds end training: by hand-written histories, and in a run whose validation never improves."""

import pytest
import torch
from lightning import Trainer

from lit_vpo.callbacks import LoRAMergeReinit, RoundStop
from lit_vpo.callbacks.round_stop import ACCURACY, ERROR, REPETITION
from lit_vpo.lora import LoRASettings
from lit_vpo.modules import DPOModule


def after(errors, repetition=None, accuracy=None, **settings):
    callback = RoundStop(**settings)
    repetition, accuracy = repetition or [0.1] * len(errors), accuracy or [0.6] * len(errors)
    rows = zip(errors, repetition, accuracy, strict=True)
    callback.history = [{ERROR: e, REPETITION: r, ACCURACY: a} for e, r, a in rows]
    return callback.reason()


@pytest.mark.parametrize(
    "errors, stops",
    [
        ([0.5], False),
        ([0.5, 0.6], False),
        ([0.5, 0.6, 0.5], True),
        ([0.5, 0.6, 0.49], False),
        ([0.5, 0.4, 0.45, 0.41], True),
        ([0.5, 0.4, 0.45, 0.39, 0.5], False),
    ],
)
def test_two_rounds_without_a_lower_error(errors, stops):
    assert bool(after(errors)) == stops


def test_language_that_degrades():
    assert after([0.5, 0.4], repetition=[0.1, 0.14]) is None
    assert "repetition rose from 0.1000 to 0.1600" in after([0.5, 0.4], repetition=[0.1, 0.16])
    assert after([0.5, 0.4], accuracy=[0.6, 0.595]) is None
    assert "question accuracy fell" in after([0.5, 0.4], accuracy=[0.6, 0.58])
    assert after([0.5, 0.4], accuracy=[0.6, 0.58], accuracy_drop=0.03) is None


class Worse(DPOModule):
    """Validation measures an error that only rises."""

    def on_validation_epoch_end(self):
        self.log(ERROR, torch.tensor(0.5 + 0.1 * self.round))


def run(tmp_path, make_batch, cls, ckpt=None):
    batches = torch.utils.data.DataLoader([make_batch("preference", "tiny_qwen2_5_vl")] * 20, batch_size=None)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    stop = RoundStop()
    trainer = Trainer(
        **quiet,
        default_root_dir=tmp_path,
        max_steps=20,
        val_check_interval=2,
        enable_checkpointing=False,
        callbacks=[LoRAMergeReinit(), stop],
        num_sanity_val_steps=0,
    )
    module = cls("tiny_qwen2_5_vl", lora=LoRASettings(r=2, alpha=4), round_steps=2, check_video=False)
    trainer.fit(
        module, batches, torch.utils.data.DataLoader([make_batch("preference", "tiny_qwen2_5_vl")], batch_size=None)
    )
    return trainer, module, stop


def test_a_run_stops_at_the_end_of_the_third_round(tmp_path, make_batch):
    trainer, module, stop = run(tmp_path, make_batch, Worse)
    assert trainer.global_step == 6 and module.round == 3
    assert [seen[ERROR] for seen in stop.history] == pytest.approx([0.6, 0.7, 0.8])
    again = RoundStop()
    again.load_state_dict(stop.state_dict())
    assert again.history == stop.history and again.seen == 3


def test_validation_must_measure_it(tmp_path, make_batch):
    with pytest.raises(ValueError, match=r"add the CaptionScores callback and data\.val_prompts"):
        run(tmp_path, make_batch, DPOModule)


def test_bad_settings():
    with pytest.raises(ValueError, match="patience >= 1 and bounds >= 0"):
        RoundStop(patience=0)
