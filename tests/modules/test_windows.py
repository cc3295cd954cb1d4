"""The gradient of an optimizer step is the same however the step is cut: batches, accumulation, ranks."""

import json

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lit_vpo.datamodules import (
    Collator,
    InstructionDataModule,
    Manifest,
    Overlay,
    PreferenceDataModule,
    RecordReader,
    ShardLoader,
    Source,
)
from lit_vpo.lora import LoRASettings
from lit_vpo.losses import DPOLoss
from lit_vpo.models import load_processor
from lit_vpo.modules import DPOModule, SFTModule

NAME = "tiny_llava_onevision"
REDUCTIONS = ["token", "sample"]


@pytest.fixture(scope="module")
def rows(world):
    """Twelve pairs of the world; lengths, weights and ground truths differ."""
    pairs = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()][:12]
    texts = [" ".join(pair["chosen"].split()[: 1 + 3 * n % 11]) for n, pair in enumerate(pairs)]
    return [
        pair | {"chosen": text, "ground_truth": text + " indeed" * (n % 4), "weight": 0.5 + n % 3}
        for n, (pair, text) in enumerate(zip(pairs, texts, strict=True))
    ]


def loader(folder, rows, kind, batch_size, **options):
    collator = Collator(load_processor(NAME), kind, with_ground_truth=kind == "preference")
    reader = RecordReader(Manifest.load(folder), Overlay(tuple(rows)))
    return ShardLoader(reader, collator, batch_size, num_frames=2, size=32, shuffle=False, world_multiple=1, **options)


def make(kind, reduction):
    lora = LoRASettings(r=4, alpha=8)
    sgd = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1), "lora": lora, "check_video": False}
    if kind == "instruction":
        return SFTModule(NAME, reduction=reduction, **sgd)
    terms = {"nll_weight": 0.7, "nll_reduction": reduction, "ce_weight": 0.3, "ce_reduction": reduction}
    return DPOModule(NAME, loss=DPOLoss(0.5), reference_tolerance=1e9, **terms, **sgd)


def loss_of(module, batch):
    """What is minimised; preference training also says its margins."""
    out = module.training_step(batch, 0)
    return out["loss"] if isinstance(module, DPOModule) else out


def gradients(module, batches, steps):
    """What Lightning and DDP make of a step: the losses of all batches on all ranks, divided by their number."""
    module.zero_grad()
    for batch in batches:
        (loss_of(module, batch) / steps).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["instruction", "preference"])
def test_one_batch_is_four_accumulated_ones_is_two_ranks(world, rows, kind, reduction):
    module = make(kind, reduction)
    module.configure_model()
    module.log = lambda *args, **more: None
    module.guarded = True
    torch.manual_seed(0)
    with torch.no_grad():
        [p.add_(0.05 * torch.randn(p.shape)) for n, p in module.named_parameters() if "lora_B" in n]
    whole = gradients(module, list(loader(world, rows, kind, 8))[:1], 1)
    four = list(loader(world, rows, kind, 2, accumulate=4))[:4]
    ranks = [list(loader(world, rows, kind, 2, accumulate=2, rank=rank, world=2))[:2] for rank in range(2)]
    assert whole and all(g.abs().sum() > 0 for g in whole.values())
    torch.testing.assert_close(gradients(module, four, 4), whole, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(gradients(module, ranks[0] + ranks[1], 4), whole, atol=1e-6, rtol=1e-4)
    # the batches' own means are not it: the test can fail (pairs alone all weigh the same in batches of two)
    if kind == "instruction" or reduction == "token":
        alone = gradients(module, [{k: v for k, v in batch.items() if k != "window"} for batch in four], 4)
        assert max(float((alone[n] - whole[n]).abs().max() / whole[n].abs().max()) for n in whole) > 0.01


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["instruction", "preference"])
def test_a_run_learns_the_same_with_any_accumulation_even_where_the_epoch_cuts_a_step_short(
    world, rows, kind, reduction, tmp_path
):
    """Twelve rows: 8 and 4 in one batch each, or in four batches of 2 and two, which Lightning divides by 4 too."""
    Overlay(tuple(rows)).save(tmp_path / "rows.jsonl")
    learned = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        more = {"with_ground_truth": True} if kind == "preference" else {}
        data_class = PreferenceDataModule if kind == "preference" else InstructionDataModule
        source = Source(str(world), str(tmp_path / "rows.jsonl"))
        data = data_class(NAME, train=source, num_frames=2, size=32, batch_size=batch_size, world_multiple=1, **more)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        module = make(kind, reduction)
        run = Trainer(
            **quiet, max_steps=2, max_epochs=-1, accumulate_grad_batches=accumulate, enable_checkpointing=False
        )
        run.fit(module, data)
        assert run.global_step == 2 and data.train_loader.cursor == 12 // batch_size + (batch_size == 8)
        learned.append({n: p.detach() for n, p in module.named_parameters() if p.requires_grad})
    assert max(float(p.abs().max()) for n, p in learned[0].items() if "lora_B" in n) > 1e-3
    torch.testing.assert_close(learned[0], learned[1], atol=1e-6, rtol=1e-3)


def test_steps_that_the_loader_cannot_foresee_are_refused(make_batch, tmp_path):
    batches = torch.utils.data.DataLoader([make_batch("preference", NAME, with_ground_truth=True)] * 4, batch_size=None)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "default_root_dir": tmp_path, "max_steps": 2}

    def fit(**more):
        Trainer(**quiet, **more).fit(make("preference", "token"), batches)

    with pytest.raises(ValueError, match="cuts the epoch to 3 batches, no multiple of accumulate_grad_batches"):
        fit(limit_train_batches=3, accumulate_grad_batches=2)
    fit(limit_train_batches=2, accumulate_grad_batches=2)
    with pytest.raises(ValueError, match="need a fixed accumulation"):
        fit(callbacks=[GradientAccumulationScheduler({0: 2})])


@pytest.mark.parametrize("kind", ["instruction", "preference"])
def test_what_is_logged_is_the_batchs_own_loss_and_not_its_share_of_the_step(world, rows, kind):
    module, logged = make(kind, "token"), []
    module.configure_model()
    module.guarded = True
    module.log = lambda name, value, **more: logged.append(float(value))
    batches = list(loader(world, rows, kind, 2, accumulate=4))[:4]
    shares = [float(loss_of(module, batch)) for batch in batches]
    alone = [float(loss_of(module, {k: v for k, v in b.items() if k != "window"})) for b in batches]
    assert logged[:4] == pytest.approx(alone) and logged[4:] == pytest.approx(alone)
    assert max(abs(a - b) for a, b in zip(shares, alone, strict=True)) > 0.01
