"""The report stands before the first step and at the end, for the largest batch."""

import lightning.pytorch as pl
import torch

from lit_vpo.callbacks import MemoryReport, memory
from lit_vpo.callbacks.memory import states_of
from lit_vpo.memory import estimate_memory, load_of
from lit_vpo.models.registry import video_token
from lit_vpo.modules import DPOModule


def test_estimate_before_and_measurement_after(make_batch, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(memory, "rank_zero_info", said.append)
    batches = [make_batch("preference", "tiny_qwen2_5_vl", size=size) for size in (1, 2, 1)]
    module, report = DPOModule("tiny_qwen2_5_vl"), MemoryReport()
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(default_root_dir=tmp_path, max_steps=3, callbacks=[report], **settings)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    assert "from the first batch" in said[0] and "activations" in said[0]
    load = load_of(batches[1], True, video_token(module.base.config))
    assert report.estimate == estimate_memory(module, module.base.get_decoder(), load)
    assert f"{report.estimate.total / 2**30:.3f} GiB" in said[1] and "resident memory" in said[1]
    assert len(said) == 2


def test_states_of_optimizers():
    weights = [torch.nn.Parameter(torch.ones(1))]
    assert states_of(torch.optim.AdamW(weights)) == 2
    assert states_of(torch.optim.SGD(weights, momentum=0.9)) == 1
    assert states_of(torch.optim.SGD(weights)) == 0
