"""Callbacks act once per optimizer step, score what was written, and keep only what resumes them."""

import json

import lightning.pytorch as pl
import pytest
import torch

from lit_vpo.callbacks import CaptionScores, GenerationWriter, PairTable, SavePretrained, StepCallback
from lit_vpo.datamodules.motion_world import score_caption
from lit_vpo.datamodules.motion_world.scene import sample_scene
from lit_vpo.datamodules.motion_world.tasks import base_record
from lit_vpo.metrics import CaptionErrors


class Count(StepCallback):
    def __init__(self, name=""):
        super().__init__(name)
        self.steps = []

    def on_step(self, trainer, module, step):
        self.steps.append(step)


class Linear(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **more):
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=tmp_path, **settings, **more)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_acts_once_per_optimizer_step_whatever_the_accumulation(tmp_path, accumulate):
    count = Count()
    loader = torch.utils.data.DataLoader(torch.ones(12, 1))
    trainer(tmp_path, max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[count]).fit(Linear(), loader)
    assert count.steps == list(range(1, 24 // accumulate + 1))


def test_a_resumed_run_acts_at_the_same_steps(tmp_path):
    loader = torch.utils.data.DataLoader(torch.ones(4, 1))
    first, second = Count("a"), Count("a")
    run = trainer(tmp_path, max_epochs=1, callbacks=[first])
    run.fit(Linear(), loader)
    run.save_checkpoint(tmp_path / "c.ckpt")
    trainer(tmp_path, max_epochs=2, callbacks=[second]).fit(Linear(), loader, ckpt_path=tmp_path / "c.ckpt")
    assert first.steps + second.steps == list(range(1, 9))


def test_two_of_a_class_keep_their_states_by_name():
    assert Count("a").state_key != Count("b").state_key


class Log:
    """Stands for the module: records what a callback logs."""

    device = torch.device("cpu")

    def __init__(self):
        self.values = {}

    def log_dict(self, values):
        self.values.update(values)


def test_caption_scores_are_those_of_the_metric_and_scopes_stay_apart():
    scene = sample_scene("validation", 0, 1)
    record = base_record(scene)
    wrong = {**record, "response": "The red square spins."}
    right = {**record, "response": record["ground_truth"]}
    local = {**record, "response": "", "meta": {"scope": "interval", "interval": [0, 1e9]}}
    callback, log = CaptionScores(score_caption), Log()
    callback.on_validation_start(None, log)
    for rows in ([wrong, right], [local]):
        callback.on_validation_batch_end(None, log, {"generations": rows}, {"kind": "prompt"}, 0)
    callback.on_validation_batch_end(None, log, {}, {"kind": "preference"}, 0)
    callback.on_validation_epoch_end(None, log)
    oracle = CaptionErrors()
    for row in (wrong, right):
        oracle.update(score_caption(row["response"], row))
    expected = oracle.compute()
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(log.values[f"val/captions/{name}"], value, equal_nan=True)
    assert log.values["val/interval_captions/event_error/total"] == 1.0


class Run:
    world_size, sanity_checking, global_step, loggers, is_global_zero = 1, False, 7, (), True
    predict_dataloaders = None

    def __init__(self, folder):
        self.default_root_dir = folder


def test_the_pair_table_is_bounded_and_written_with_its_step(tmp_path):
    table = PairTable(num_rows=3)
    table.on_validation_start(None, None)
    records = [{"key": f"k{i}", "prompt": "?", "chosen": "a", "rejected": "b"} for i in range(5)]
    table.on_validation_batch_end(
        None, None, {"margins": torch.arange(5.0)}, {"kind": "preference", "records": records}, 0
    )
    rows = [{"key": "k9", "prompt": "?", "response": "text"}]
    table.on_validation_batch_end(None, None, {"generations": rows}, {"kind": "prompt"}, 0)
    table.on_validation_end(Run(tmp_path), None)
    lines = [json.loads(line) for line in (tmp_path / "tables" / "step-7.jsonl").read_text().splitlines()]
    assert [(line["video"], line["margin"], line["generation"]) for line in lines] == [
        ("k0", 0.0, None), ("k1", 1.0, None), ("k2", 2.0, None), ("k9", None, "text"),
    ]  # fmt: skip


def test_generations_have_their_final_name_only_when_whole(tmp_path):
    writer = GenerationWriter(str(tmp_path / "deep" / "g.jsonl"))
    writer.on_predict_epoch_start(Run(tmp_path), None)
    for n in range(2):
        writer.write_on_batch_end(None, None, [{"id": n, "response": "ü"}], None, None, n, 0)
    assert not (tmp_path / "deep" / "g.jsonl").exists()
    writer.on_predict_end(Run(tmp_path), None)
    lines = (tmp_path / "deep" / "g.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1]
    many = Run(tmp_path)
    many.world_size = 2
    with pytest.raises(ValueError, match="one process"):
        writer.setup(many, None, "predict")


def test_a_saved_network_is_loaded_by_plain_transformers_with_equal_logits(tmp_path):
    from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

    from lit_vpo.modules import SFTModule

    module = SFTModule("tiny_llava_onevision", tuning="full")
    module.configure_model()
    saver = SavePretrained(str(tmp_path / "out"))
    saver.setup(Run(tmp_path), module, "fit")
    saver.on_fit_end(Run(tmp_path), module)
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "out")
    ids = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer("the red square", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, module.network(input_ids=ids).logits)
    with pytest.raises(ValueError, match="network"):
        saver.setup(Run(tmp_path), Linear(), "fit")
    adapted = SFTModule("tiny_llava_onevision", tuning="lora")
    adapted.configure_model()
    with pytest.raises(ValueError, match="carries an adapter"):
        saver.on_fit_start(Run(tmp_path), adapted)
