"""Tower and projector learn what each visual token should tell; nothing else moves; an SFT run can start there."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.modules import SFTModule, TowerModule


def batch():
    """One-frame videos of 3 x 3 cells: bright cells are colour 1, the others colour 0; the last column is empty."""
    rng = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 2, (8, 3, 3), generator=rng)
    presence = torch.ones(8, 3, 3)
    presence[:, :, 2] = 0
    pixels = torch.rand(8, 1, 3, 60, 60, generator=rng) * 0.1
    pixels[:, 0, 0] += colour.repeat_interleave(20, 1).repeat_interleave(20, 2)
    pixels[:, 0, 1, :, 40:] += 1
    labels = {"colour": torch.where(presence > 0, colour, -1).view(8, 9)}
    media = {"pixel_values_videos": pixels}
    return {"media": media, "presence": presence.view(8, 9), "labels": labels, "targets": torch.zeros(8, 9, 2)}


def tower(**more):
    settings = {"num_classes": {"colour": 2}, "num_targets": 2, "optimizer": lambda p: torch.optim.AdamW(p, lr=3e-3)}
    return TowerModule("tiny_llava_onevision", **settings | more)


def test_learns_and_leaves_the_rest(trainer, loader):
    module, run = tower(), trainer(max_steps=60)
    module.configure_model()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    run.fit(module, loader([batch()] * 60))
    logged = run.callback_metrics
    assert logged["accuracy/colour"] > 0.95 and logged["accuracy/presence"] > 0.95
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= set(module.trainable_names())
    parts = {n.removeprefix("net.model.").split(".")[0] for n in moved}
    assert parts == {"vision_tower", "multi_modal_projector", "heads"}


def test_checkpoint_starts_sft(trainer, loader, tmp_path):
    module = tower()
    saver = ModelCheckpoint(tmp_path / "c", filename="c", every_n_train_steps=1)
    trainer(max_steps=1, callbacks=[saver], enable_checkpointing=True).fit(module, loader([batch()]))
    state = torch.load(tmp_path / "c" / "c.ckpt", weights_only=True)["state_dict"]
    assert sorted(state) == sorted(module.trainable_names())
    started = SFTModule("tiny_llava_onevision", tuning="full", init_from=str(tmp_path / "c" / "c.ckpt"))
    started.configure_model()
    own = dict(started.named_parameters())
    assert all(torch.equal(own[n], p) for n, p in module.named_parameters() if n.startswith("net."))


def test_loss_by_hand(monkeypatch):
    module = tower()
    module.configure_model()
    logged = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **more: logged.update(values))
    for head in module.heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    data = batch()
    data["targets"] += 0.5
    module.step(data, "")
    # zero logits: ln 2 for absent tokens, 4 ln 2 for present ones (weight 4), 6 of 9 are present
    ln2 = torch.tensor(2.0).log()
    torch.testing.assert_close(logged["loss/presence"], ln2 * (3 + 4 * 6) / 9)
    torch.testing.assert_close(logged["loss/colour"], ln2)
    torch.testing.assert_close(logged["loss/targets"], torch.tensor(4 * (0.5 - 0.2 / 2)))  # smooth L1, linear part
    assert set(logged) >= {"accuracy/colour", "accuracy/presence", "loss/total"}


def test_bad_settings():
    with pytest.raises(ValueError, match="at least 2 classes"):
        TowerModule("tiny_llava_onevision", num_classes={})
