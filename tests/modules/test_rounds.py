"""Rounds: what each combination of callbacks means, and that a cut run ends like a straight one."""

import pathlib
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.callbacks import LoRAMergeReinit, ReferenceRefresh
from lit_vpo.lora import LoRASettings
from lit_vpo.losses import SimPOLoss
from lit_vpo.models import load_model, weights_hash
from lit_vpo.modules import DPOModule, SFTModule

NAME = "tiny_qwen2_5_vl"
SMALL = LoRASettings(r=4, alpha=8)
STEPS = 2  # of a round


def adamw(params):
    return torch.optim.AdamW(params, lr=1e-2)


def make(reference=None, tuning="lora", **more):
    lora = SMALL if tuning == "lora" else None
    settings = {"round_steps": STEPS, "check_video": False, "optimizer": adamw} | more
    return DPOModule(NAME, tuning=tuning, lora=lora, reference=reference, **settings)


@pytest.fixture
def batches(make_batch):
    return [make_batch("preference", NAME, first=2 * index) for index in range(12)]


@pytest.fixture
def fit(loader, trainer, batches, tmp_path):
    """Train for some steps of two micro-batches each; every step is saved."""

    def run(module, callbacks, steps=STEPS, ckpt=None, start=0, **more):
        saver = ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
        saver.CHECKPOINT_NAME_LAST = f"last-{id(module)}"
        settings = {"accumulate_grad_batches": 2, "enable_checkpointing": True, "max_steps": steps} | more
        made = trainer(callbacks=[*callbacks, saver], **settings)
        # as long as a whole epoch: a resumed Lightning counts what is done
        made.fit(module, loader(batches[2 * start :] + batches[: 2 * start]), ckpt_path=ckpt)
        return made

    return run


def scores(module, batch):
    with torch.no_grad():
        return module.pair_logps(batch, module.encode(batch))


def tensors(module):
    return {n: t.clone() for n, t in module.state_dict().items() if n.startswith(("net.", "reference."))}


class Before:
    """What policy and reference said just before the first boundary."""

    def __init__(self, module, batch, cross):
        self.logps = None
        original = getattr(module, cross)

        def spy(*args):
            self.logps = scores(module, batch) if self.logps is None else self.logps
            return original(*args)

        setattr(module, cross, spy)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "reference, callbacks",
    [
        ("adapter_off", [LoRAMergeReinit]),
        ("adapter_off", [ReferenceRefresh]),
        ("adapter_off", [LoRAMergeReinit, ReferenceRefresh]),
        ("second_adapter", [ReferenceRefresh]),
        ("second_adapter", [LoRAMergeReinit]),
        ("second_adapter", [LoRAMergeReinit, ReferenceRefresh]),
        ("frozen_copy", [ReferenceRefresh]),
    ],
)
def test_after_a_whole_refresh_policy_and_reference_are_the_policy_of_before(fit, batches, reference, callbacks, order):
    module = make(reference)
    before = Before(module, batches[0], "cross")
    fit(module, [callback() for callback in callbacks[::order]])
    after = scores(module, batches[0])
    assert module.round == 1
    assert (before.logps.policy.tokens - before.logps.reference.tokens).abs().max() > 1e-2
    torch.testing.assert_close(after.policy.tokens, before.logps.policy.tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.reference.tokens, before.logps.policy.tokens, atol=1e-4, rtol=1e-4)
    entries = module.ledger.state()
    merged = LoRAMergeReinit in callbacks or reference == "adapter_off"
    assert len(entries) == merged
    if LoRAMergeReinit in callbacks:
        assert all(not t.any() for n, t in module.state_dict().items() if ".lora_B." in n)


@pytest.mark.parametrize("tuning, reference", [("lora", "second_adapter"), ("full", "frozen_copy")])
def test_a_refresh_by_a_weight_mixes(fit, tuning, reference):
    module = make(reference, tuning)
    module.configure_model()
    trained = module.trainable_names()
    kept = {}
    original = module.cross

    def spy(*args):
        kept["policy"], kept["reference"] = tensors(module), None
        original(*args)

    start = tensors(module)
    module.cross = spy
    fit(module, [ReferenceRefresh(0.25)])
    after = tensors(module)
    for name in trained:
        own = name.replace(".default.", ".reference.") if reference == "second_adapter" else f"reference.{name}"
        torch.testing.assert_close(after[own], 0.75 * start[name] + 0.25 * kept["policy"][name])
        assert torch.equal(after[name], kept["policy"][name])


def test_a_refresh_by_a_weight_without_reference_weights_folds_that_part(fit, batches):
    module = make("adapter_off")
    before = Before(module, batches[0], "cross")
    fit(module, [ReferenceRefresh(0.25)])
    after = scores(module, batches[0])
    torch.testing.assert_close(after.policy.tokens, before.logps.policy.tokens, atol=1e-4, rtol=1e-4)
    (entry,) = module.ledger.state()
    a, b, scale = next(iter(entry.values()))
    name = next(iter(entry))
    layer = module.net.get_submodule(f"base_model.model.{name}")
    assert scale == pytest.approx(0.25 * 2)
    torch.testing.assert_close(layer.lora_B["default"].weight.data, 0.75 * b)
    start = load_model(NAME).get_parameter(f"{name}.weight")
    torch.testing.assert_close(layer.get_base_layer().weight.data, start + 0.5 * b @ a, atol=1e-6, rtol=1e-5)


def test_optimizer_and_learning_rate_begin_anew(fit):
    seen = []

    class Spy(DPOModule):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            seen.append((len(optimizer.state), optimizer.param_groups[0]["lr"], self.round))

    settings = {"lora": SMALL, "round_steps": 2, "check_video": False, "optimizer": adamw, "warmup_steps": 2}
    fit(Spy(NAME, **settings), [LoRAMergeReinit()], steps=4)
    assert [round_index for *_, round_index in seen] == [0, 0, 1, 1]
    assert [lr for _, lr, _ in seen] == pytest.approx([0.005, 0.01, 0.005, 0.01])
    assert [size == 0 for size, *_ in seen] == [True, False, True, False]


def test_rounds_of_several_lengths(fit):
    seen = []

    class Spy(DPOModule):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            lr = optimizer.param_groups[0]["lr"]
            seen.append((self.round, lr, len(optimizer.state) == 0, self.starts_as_reference))

    settings = {"lora": SMALL, "round_steps": [1, 3, 2], "check_video": False, "optimizer": adamw}
    module = Spy(NAME, **settings, schedule="linear")
    fit(module, [LoRAMergeReinit()], steps=6)
    rates = [0.01, 0.01, 0.02 / 3, 0.01 / 3, 0.01, 0.005]
    assert [lr for _, lr, *_ in seen] == pytest.approx(rates)
    assert [ended for ended, *_ in seen] == [0, 1, 1, 1, 2, 2] and module.round == 3
    fresh = [True, True, False, False, True, False]
    assert [empty for *_, empty, _ in seen] == [starts for *_, starts in seen] == fresh


def test_each_round_begins_with_policy_equal_to_reference(fit, monkeypatch):
    checked = []
    monkeypatch.setattr("lit_vpo.modules.dpo.check_ln2", lambda loss, _: checked.append(loss))
    fit(make(), [LoRAMergeReinit()], steps=6)
    assert checked == pytest.approx([0.693147] * 3, abs=1e-5)


CASES = [
    ("lora", "adapter_off", [LoRAMergeReinit]),
    ("lora", "adapter_off", [lambda: ReferenceRefresh(0.5)]),
    ("lora", "second_adapter", [LoRAMergeReinit]),
    ("lora", "second_adapter", [lambda: ReferenceRefresh(0.5)]),
    ("full", "frozen_copy", [lambda: ReferenceRefresh(0.5)]),
]


@pytest.mark.parametrize("tuning, reference, callbacks", CASES)
def test_cut_at_every_step_of_three_rounds_and_resumed_equals_straight(
    fit, tmp_path, trainer, loader, batches, tuning, reference, callbacks
):
    straight = make(reference, tuning)
    fit(straight, [callback() for callback in callbacks], steps=6)
    expected = tensors(straight)
    saved = {step: tmp_path / "steps" / f"step={step}.ckpt" for step in range(1, 6)}
    for step, path in saved.items():
        torch.load(path, weights_only=True)
        resumed = make(reference, tuning)
        fit(resumed, [callback() for callback in callbacks], steps=6, ckpt=path, start=step)
        got = tensors(resumed)
        assert got.keys() == expected.keys() and resumed.round == 3
        assert all(torch.equal(got[name], expected[name]) for name in expected), step
    last = max((tmp_path / "steps").glob("step=6*.ckpt"), key=lambda path: path.stat().st_mtime)
    alone = make(reference, tuning)  # no callbacks at all
    trainer().validate(alone, loader(batches[:1]), ckpt_path=last, verbose=False)
    there = trainer()
    there.validate(straight, loader(batches[:1]), verbose=False)
    assert alone.trainer.callback_metrics["val/loss/dpo"] == there.callback_metrics["val/loss/dpo"]


def test_a_later_run_starts_from_merged_rounds(fit, tmp_path, batches):
    module = make()
    fit(module, [LoRAMergeReinit()], steps=3)
    path = str(tmp_path / "steps" / "step=3.ckpt")
    for other in (DPOModule(NAME, lora=SMALL, init_from=path), SFTModule(NAME, tuning="full", init_from=path)):
        other.configure_model()
        with torch.no_grad():
            got = other.logps(batches[0], other.encode(batches[0])).tokens
        torch.testing.assert_close(got, scores(module, batches[0]).policy.tokens, atol=1e-4, rtol=1e-4)


def test_a_run_in_rounds_goes_on_in_rounds_alone_and_is_validated_by_any_module(
    fit, tmp_path, trainer, loader, batches
):
    fit(make(), [LoRAMergeReinit()], steps=2)
    path = tmp_path / "steps" / "step=2.ckpt"
    with pytest.raises(ValueError, match="give the round_steps that it was trained with"):
        fit(make(round_steps=None), [], steps=4, ckpt=path)
    logps = []
    for steps in (STEPS, None):  # to look at it, nothing but the checkpoint is needed
        there = trainer()
        there.validate(make(round_steps=steps), loader(batches[:1]), ckpt_path=path, verbose=False)
        logps.append(there.callback_metrics["val/logps/chosen"])
    assert logps[0] == logps[1]


@pytest.mark.parametrize(
    "module, callbacks, message",
    [
        (lambda: make(round_steps=None), [LoRAMergeReinit], "callbacks of rounds need the module's round_steps"),
        (lambda: make("frozen_copy"), [LoRAMergeReinit], "LoRAMergeReinit cannot go with reference: frozen_copy"),
        (lambda: make(tuning="full"), [LoRAMergeReinit], "cannot go with reference: frozen_copy"),
        (lambda: make(), [LoRAMergeReinit, lambda: ReferenceRefresh(0.5)], "leave out ReferenceRefresh by 0.5"),
        (lambda: make(), [lambda: ReferenceRefresh(0)], r"new_weight must be in \(0, 1\], got 0"),
        (lambda: make(loss=SimPOLoss()), [ReferenceRefresh], "there is no reference to refresh"),
        (lambda: SFTModule(NAME, lora=SMALL), [ReferenceRefresh], "needs a module with rounds; SFTModule has none"),
    ],
)
def test_combinations_that_mean_nothing_are_refused_before_training(fit, module, callbacks, message):
    with pytest.raises(ValueError, match=message):
        fit(module(), [callback() for callback in callbacks])


def test_bad_rounds():
    for steps in (0, [2, 0], []):
        with pytest.raises(ValueError, match="round_steps must be >= 1"):
            make(round_steps=steps)


def test_without_a_reference_a_merge_is_still_a_merge(fit, batches):
    module = make(loss=SimPOLoss())
    before = Before(module, batches[0], "cross")
    fit(module, [LoRAMergeReinit()])
    torch.testing.assert_close(
        scores(module, batches[0]).policy.tokens, before.logps.policy.tokens, atol=1e-4, rtol=1e-4
    )
    assert weights_hash(module.net, frozen_only=True) == module.frozen_hash != module.base_hash


@pytest.mark.slow
def test_two_ranks_agree_and_learn_what_one_rank_learns(tmp_path):
    script = pathlib.Path(__file__).with_name("rounds_run.py")
    learned = []
    for world in (1, 2):
        out = tmp_path / f"{world}.pt"
        subprocess.run([sys.executable, str(script), str(world), str(out)], check=True, timeout=300)
        learned.append(torch.load(out, weights_only=True))
    one, two = learned
    assert one["round"] == two["round"] == 3 and len(set(two["hashes"])) == 1
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, atol=1e-5, rtol=1e-5)
    start = dict(load_model(NAME).named_parameters())
    merged = {name: tensor for name, tensor in two["weights"].items() if name.endswith("base_layer.weight")}
    for name, tensor in merged.items():
        assert not torch.equal(tensor, start[name.removeprefix("base_model.model.").replace(".base_layer.", ".")])
    assert merged
