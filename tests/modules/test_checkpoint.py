"""A checkpoint stands alone: trainable tensors and plain types, opened without pickle, its keys compared exactly."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.lora import LoRASettings
from lit_vpo.modules import DPOModule, SFTModule
from lit_vpo.modules.scoring import video_inputs

SMALL = LoRASettings(r=4, alpha=8)


def adamw(params):
    return torch.optim.AdamW(params, lr=1e-2)


def sft(**more):
    return SFTModule("tiny_llava_onevision", **{"lora": SMALL, "optimizer": adamw} | more)


@pytest.fixture
def trained(make_batch, loader, trainer, tmp_path):
    """A module trained for two steps, and its checkpoint."""

    def make(module, kind="instruction", steps=2):
        saver = ModelCheckpoint(tmp_path / type(module).__name__, filename="c", every_n_train_steps=1, save_top_k=-1)
        batches = [make_batch(kind, first=2 * i) for i in range(steps)]
        trainer(max_steps=steps, callbacks=[saver], enable_checkpointing=True).fit(module, loader(batches))
        return saver.best_model_path or str(next((tmp_path / type(module).__name__).glob("*.ckpt"))), module

    return make


def tensors(module):
    return {n: p.detach().clone() for n, p in module.named_parameters()}


def test_holds_trainables_only_and_opens_with_weights_only(trained, trainer, loader, make_batch):
    path, module = trained(sft(), steps=1)
    checkpoint = torch.load(path, weights_only=True)
    assert sorted(checkpoint["state_dict"]) == sorted(module.trainable_names())
    assert all(".lora_" in name for name in checkpoint["state_dict"])
    assert isinstance(checkpoint["lit_vpo"]["frozen_hash"], str)
    fresh = sft()
    trainer().validate(fresh, loader([make_batch("instruction")]), ckpt_path=path, verbose=False)
    loaded = SFTModule.load_from_checkpoint(path, lora=SMALL, weights_only=True)
    for other in (fresh, loaded):
        assert all(torch.equal(p, tensors(module)[n]) for n, p in other.named_parameters())


def test_dpo_checkpoint_opens_with_weights_only(trained):
    path, _ = trained(DPOModule("tiny_llava_onevision", lora=SMALL), "preference", steps=1)
    assert set(torch.load(path, weights_only=True)["lit_vpo"]) == {
        "frozen_hash",
        "settings",
        "reference_hash",
        "rounds",
        "writers",
    }


def test_wrong_keys_are_refused_by_name(trained, trainer, loader, make_batch, tmp_path):
    path, _ = trained(sft(), steps=1)
    checkpoint = torch.load(path, weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"]["net.typo"] = checkpoint["state_dict"].pop(name)
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=rf"missing {name}; unexpected net.typo"):
        trainer().validate(sft(), loader([make_batch("instruction")]), ckpt_path=tmp_path / "bad.ckpt", verbose=False)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lora": LoRASettings(r=4, alpha=4)}, "lora_scaling: checkpoint 2.0, here 1.0"),
        ({"lora": LoRASettings(r=4, alpha=8, targets=["q_proj"])}, "unexpected .*down_proj"),
        ({"tuning": "full", "lora": None}, "the checkpoint does not fit this module: missing"),
    ],
)
def test_other_settings_are_refused(trained, trainer, loader, make_batch, other, message):
    path, _ = trained(sft(), steps=1)
    with pytest.raises(ValueError, match=message):
        trainer().validate(sft(**other), loader([make_batch("instruction")]), ckpt_path=path, verbose=False)


def test_other_base_is_refused(trained, trainer, loader, make_batch):
    path, _ = trained(sft(), steps=1)
    other = sft()
    other.configure_model()
    with torch.no_grad():
        other.base.get_submodule(other.family.vision).post_layernorm.bias.add_(1)
    other.frozen_hash = ""
    other.net, net = None, other.net
    other.build = lambda: net
    with pytest.raises(ValueError, match="was trained on other frozen weights"):
        trainer().validate(other, loader([make_batch("instruction")]), ckpt_path=path, verbose=False)


def logits(module, batch):
    with torch.no_grad():
        return module.net(**video_inputs(module.family, batch, module.encode(batch))).logits


def test_init_from_starts_where_the_other_run_ended(trained, make_batch):
    batch = make_batch("instruction")
    for other in (sft(), sft(tuning="full", lora=None)):
        path, module = trained(other, steps=1)
        expected = logits(module, batch)
        for tuning in ("lora", "language_model"):
            started = sft(tuning=tuning, lora=SMALL if tuning == "lora" else None, init_from=path)
            started.configure_model()
            torch.testing.assert_close(logits(started, batch), expected, atol=1e-5, rtol=1e-5)
        dpo = DPOModule("tiny_llava_onevision", lora=SMALL, init_from=path)
        dpo.configure_model()
        with dpo.net.disable_adapter():  # merged, not stacked: the reference is the whole SFT model
            torch.testing.assert_close(logits(dpo, batch), expected, atol=1e-5, rtol=1e-5)
    plain = sft()
    plain.configure_model()
    assert (logits(plain, batch) - expected).abs().max() > 1e-2


def test_init_from_refuses_what_does_not_fit(trained, tmp_path):
    path, _ = trained(sft(), steps=1)
    with pytest.raises(ValueError, match="was trained on another model"):
        SFTModule("tiny_qwen2_5_vl", init_from=path).configure_model()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of this package"):
        sft(init_from=str(tmp_path / "foreign.ckpt")).configure_model()
    with pytest.raises(ValueError, match="cannot read"):
        sft(init_from=str(tmp_path / "absent.ckpt")).configure_model()


def test_configure_model_is_idempotent():
    module = sft()
    module.configure_model()
    net = module.net
    module.configure_model()
    assert module.net is net


def test_cut_and_resumed_equals_straight(make_batch, loader, trainer, tmp_path):
    # one batch over and over: the position of a loader is not this test's matter
    batches = [make_batch("preference")] * 3

    def run(folder, ckpt_path=None):
        module = DPOModule("tiny_llava_onevision", lora=SMALL, optimizer=adamw, schedule="cosine", warmup_steps=1)
        saver = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer(max_steps=3, callbacks=[saver], enable_checkpointing=True).fit(
            module, loader(batches), ckpt_path=ckpt_path
        )
        return tensors(module)

    straight = run("straight")
    resumed = run("resumed", tmp_path / "straight" / "step=2.ckpt")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
