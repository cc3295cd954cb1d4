"""SFT trains what it should, by the loss it names, and resumes from trainable tensors alone."""

import pytest
import torch
import torch.nn.functional as F

from lit_vpo.datamodules import Clip, Collator
from lit_vpo.lora import LoRASettings
from lit_vpo.models import load_processor
from lit_vpo.modules import SFTModule
from lit_vpo.modules.guards import check_ranks_agree
from lit_vpo.modules.scoring import video_inputs

SMALL = LoRASettings(r=4, alpha=8)


@pytest.mark.parametrize("name", ["tiny_llava_onevision", "tiny_qwen2_5_vl"])
def test_loss_is_transformers_own(make_batch, name):
    batch = make_batch("instruction", name)
    module = SFTModule(name, tuning="full")
    module.configure_model()
    module.policy_mode()
    module.log = lambda *args, **more: None
    loss = module.training_step(batch, 0)
    media = {k: v for k, v in batch["media"].items()}
    text = {k: batch[k] for k in ("input_ids", "attention_mask", "labels", "mm_token_type_ids") if k in batch}
    expected = module.net(**text, **media).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_reductions_and_weights(make_batch):
    batch = make_batch("instruction") | {"weight": torch.tensor([1.0, 3.0])}
    batch["labels"][1, -8:] = -100  # the second response is shorter
    module = SFTModule("tiny_llava_onevision", reduction="sample")
    module.configure_model()
    module.log = lambda *args, **more: None
    logits = module.net(**video_inputs(module.family, batch, module.encode(batch))).logits
    means = [F.cross_entropy(logits[i, :-1], batch["labels"][i, 1:]) for i in range(2)]  # ignore_index is -100
    torch.testing.assert_close(module.training_step(batch, 0), (means[0] + 3 * means[1]) / 4)


@pytest.mark.parametrize(
    ("tuning", "trained"),
    [
        ("lora", {"language_model.lora"}),
        ("language_model", {"language_model"}),
        ("full", {"language_model", "multi_modal_projector", "image_newline"}),
    ],
)
def test_what_is_trained(make_batch, loader, trainer, tuning, trained):
    module = SFTModule("tiny_llava_onevision", tuning=tuning, lora=SMALL if tuning == "lora" else None)
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer().fit(module, loader([make_batch("instruction"), make_batch("instruction", first=2)]))
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved and moved <= set(module.trainable_names())
    parts = {name.removeprefix("net.").removeprefix("base_model.model.").split(".")[1] for name in moved}
    assert parts == {part.split(".")[0] for part in trained}
    assert all(".lora_" in name for name in moved) == (tuning == "lora")


def test_modes_and_dropout_during_fit(make_batch, loader, trainer):
    seen = {}

    class Spy(SFTModule):
        def training_step(self, batch, batch_idx):
            tower = self.base.get_submodule(self.family.vision)
            dropouts = [m.p for m in self.modules() if isinstance(m, torch.nn.Dropout)]
            seen.update(policy=self.base.model.language_model.training, tower=tower.training, dropouts=set(dropouts))
            return super().training_step(batch, batch_idx)

    module = Spy("tiny_llava_onevision", lora=LoRASettings(r=4, alpha=8, dropout=0.1))
    batches = [make_batch("instruction")]
    trainer(max_steps=1, val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=1).fit(
        module, loader(batches), loader(batches)
    )
    assert seen == {"policy": True, "tower": False, "dropouts": {0.0}}


def test_gradient_checkpointing_is_on_and_changes_no_gradient(make_batch, loader, trainer):
    batch, grads = make_batch("instruction"), []
    for checkpointing in (False, True):
        module = SFTModule("tiny_llava_onevision", lora=SMALL, gradient_checkpointing=checkpointing)
        module.configure_model()
        with torch.no_grad():
            [p.add_(0.01) for n, p in module.named_parameters() if "lora_B" in n]  # else A has no gradient
        module.log = lambda *args, **more: None
        module.on_fit_start()
        assert module.base.model.language_model.layers[0].gradient_checkpointing is checkpointing
        module.training_step(batch, 0).backward()
        grads.append({n: p.grad for n, p in module.named_parameters() if p.requires_grad})
    assert all(g.abs().sum() > 0 for g in grads[0].values())
    torch.testing.assert_close(grads[0], grads[1])


def test_evaluation_of_every_kind(make_batch, loader, trainer):
    module = SFTModule("tiny_llava_onevision", lora=SMALL, max_new_tokens=5)
    run = trainer()
    kinds = ["instruction", "prompt", "question"]
    run.validate(module, [loader([make_batch(kind)]) for kind in kinds], verbose=False)
    names = set(run.callback_metrics)
    assert {"val/loss/ce_ground_truth", "val/questions/accuracy", "val/questions/accuracy/direction"} <= names
    with pytest.raises(ValueError, match="cannot evaluate a batch of kind 'preference'"):
        run.validate(module, loader([make_batch("preference")]), verbose=False)


def test_question_scores_are_the_options_summed_logps(make_batch):
    batch = make_batch("question")
    module = SFTModule("tiny_llava_onevision", lora=SMALL)
    module.configure_model()
    logits = module.net(**video_inputs(module.family, batch, module.encode(batch))).logits.log_softmax(-1)
    labels = batch["labels"][:, 1:]
    each = logits[:, :-1].gather(2, labels.clamp_min(0)[..., None])[..., 0] * (labels != -100)
    torch.testing.assert_close(module.answer(batch, "val")["option_logps"], each.sum(1), atol=1e-4, rtol=1e-5)


def test_bad_settings():
    with pytest.raises(ValueError, match="reduction must be one of token, sample"):
        SFTModule("tiny_llava_onevision", reduction="mean")
    with pytest.raises(ValueError, match="tuning must be one of"):
        SFTModule("tiny_llava_onevision", tuning="vision")
    with pytest.raises(ValueError, match="lora settings have no effect"):
        SFTModule("tiny_llava_onevision", tuning="full", lora=SMALL)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        SFTModule("tiny_llava_onevision", temperature=0.0)
    with pytest.raises(ValueError, match="schedule must be one of"):
        SFTModule("tiny_llava_onevision", schedule="step")


@pytest.mark.parametrize("name", ["tiny_llava_onevision", "tiny_qwen2_5_vl"])
def test_rows_of_text_alone_stand_in_a_batch_beside_rows_with_a_video(name):
    """Mixed rows score as they do in batches of their own kind."""
    module = SFTModule(name, tuning="language_model")
    module.configure_model()
    rng = torch.Generator().manual_seed(3)
    clip = Clip(torch.randint(0, 255, (4, 3, 64, 64), generator=rng, dtype=torch.uint8), [0.0, 1.0, 2.0, 3.0], 1.0)
    collate = Collator(load_processor(name), "instruction")
    records = [
        {"id": str(n), "prompt": "What happens?", "ground_truth": "a red square " + "spins " * n} for n in (1, 2, 3)
    ]
    examples = list(zip(records, (clip, None, clip), strict=True))

    def sums(chosen):
        batch = collate(chosen)
        with torch.no_grad():
            return module.logps(batch, module.encode(batch)).sums

    assert collate(examples)["video_index"].tolist() == [0, -1, 0]
    alone = torch.cat([sums([example]) for example in examples])
    torch.testing.assert_close(sums(examples), alone, atol=1e-4, rtol=1e-5)


def test_a_rank_that_starts_from_other_frozen_weights_is_refused():
    check_ranks_agree("a1", "a1")
    with pytest.raises(ValueError, match=r"this rank \(hash a1\) are not those of rank 0 \(b2\)"):
        check_ranks_agree("a1", "b2")
