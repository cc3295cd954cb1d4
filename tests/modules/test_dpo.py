"""DPO starts at ln 2 against the right reference, and stops at once against a wrong one."""

import math

import pytest
import torch
from lightning import Callback

from lit_vpo import losses
from lit_vpo.lora import LoRASettings
from lit_vpo.losses import DPOLoss, dpo_loss, dpo_margins
from lit_vpo.modules import DPOModule, SFTModule
from lit_vpo.protocols import HasAdapter, HasNetwork, HasReference

SMALL = LoRASettings(r=4, alpha=8)
NAMES = ["tiny_llava_onevision", "tiny_qwen2_5_vl"]


def adamw(params):
    return torch.optim.AdamW(params, lr=1e-2)


def row_logps(module, batch, row):
    """The oracle: one row alone, its own pixels, no adapter machinery, float64 softmax."""
    media = batch["media"]
    video = int(batch["video_index"][row])
    if "video_grid_thw" in media:
        sizes = media["video_grid_thw"].prod(-1).tolist()
        pixels = media["pixel_values_videos"].split(sizes)[video]
        one = {"pixel_values_videos": pixels} | {k: media[k][[video]] for k in ("video_grid_thw", "second_per_grid_ts")}
    else:
        one = {"pixel_values_videos": media["pixel_values_videos"][[video]]}
    length = int(batch["attention_mask"][row].sum())
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    text = {k: batch[k][[row], :length] for k in names if k in batch}
    logits = module.net(**text, **one, use_cache=False).logits[0].double().log_softmax(-1)
    labels = batch["labels"][row, :length]
    return sum(logits[t - 1, labels[t]] for t in range(length) if labels[t] != -100).float()


@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_rows_taken_one_by_one(make_batch, name):
    batch = make_batch("preference", name, with_ground_truth=True)
    module = DPOModule(name, loss=DPOLoss(beta=0.3), lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        [p.add_(0.03) for n, p in module.named_parameters() if "lora_B" in n]
        policy = torch.stack([row_logps(module, batch, row) for row in range(6)])
        with module.net.disable_adapter():
            reference = torch.stack([row_logps(module, batch, row) for row in range(4)])
        logps = module.pair_logps(batch, module.encode(batch))
        torch.testing.assert_close(logps.policy.sums, policy, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(logps.reference.sums, reference, atol=1e-4, rtol=1e-5)
        parts = module.objective(batch, logps)
        margins = dpo_margins(policy[:2] - reference[:2], policy[2:4] - reference[2:], 0.3)
        assert margins.abs().min() > 1e-3
        torch.testing.assert_close(parts["loss/dpo"].value, dpo_loss(margins).mean(), atol=1e-4, rtol=1e-4)
        lengths = logps.policy.lengths
        torch.testing.assert_close(parts["loss/nll_chosen"].value, -policy[:2].sum() / lengths[:2].sum())
        torch.testing.assert_close(parts["loss/ce_ground_truth"].value, -policy[4:].sum() / lengths[4:].sum())


@pytest.mark.parametrize("name", NAMES)
def test_first_step_is_ln2_and_training_opens_a_margin(make_batch, loader, trainer, name):
    batch, seen = make_batch("preference", name), []

    class Spy(DPOModule):
        def log_dict(self, values, **more):
            seen.append({k: float(v) for k, v in values.items()})
            super().log_dict(values, **more)

    module = Spy(name, lora=SMALL, optimizer=adamw)
    trainer(max_steps=4).fit(module, loader([batch] * 4))
    first, last = seen[0], seen[-1]
    assert first["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4) and first["kl"] == pytest.approx(0, abs=1e-5)
    assert last["rewards/margins"] > 0.1 and last["rewards/accuracies"] == 1 and last["loss/dpo"] < 0.6
    assert {"logps/chosen", "logps_drift/chosen", "length_ratio", "loss/nll_chosen", "rewards/rejected"} <= set(last)


def test_weights_of_the_terms(make_batch, loader, trainer):
    batch = make_batch("preference", with_ground_truth=True)
    module = DPOModule("tiny_llava_onevision", nll_weight=0.5, ce_weight=0.1, nll_reduction="sample", lora=SMALL)
    run = trainer(max_steps=1)
    run.fit(module, loader([batch]))
    logged = run.callback_metrics
    expected = logged["loss/dpo"] + 0.5 * logged["loss/nll_chosen"] + 0.1 * logged["loss/ce_ground_truth"]
    torch.testing.assert_close(logged["loss/total"], expected)
    assert logged["grad_norm"] > 0


@pytest.mark.parametrize(
    "term, more", [("loss/nll_chosen", {"nll_weight": 1}), ("loss/ce_ground_truth", {"ce_weight": 1})]
)
def test_without_weight_on_the_preference_the_likelihood_alone_is_minimised(make_batch, term, more):
    batch = make_batch("preference", with_ground_truth=True)
    module = DPOModule("tiny_llava_onevision", loss_weight=0, lora=SMALL, **more)
    module.configure_model()
    parts = module.objective(batch, module.pair_logps(batch, module.encode(batch)))
    assert torch.equal(module.total(batch, parts), parts[term].value)
    assert float(parts["loss/dpo"].value) == pytest.approx(math.log(2), abs=1e-5)  # still told


def test_reference_never_moves_and_flags_return(make_batch, loader, trainer):
    batch = make_batch("preference")
    module = DPOModule("tiny_llava_onevision", lora=SMALL, optimizer=adamw)
    module.configure_model()
    before = module.pair_logps(batch, module.encode(batch)).reference.sums
    trainer(max_steps=3).fit(module, loader([batch] * 3))
    after = module.pair_logps(batch, module.encode(batch))
    assert torch.equal(before, after.reference.sums)
    assert (after.policy.sums[:4] - before).abs().max() > 0.1
    assert all(p.requires_grad == (".lora_" in n) for n, p in module.named_parameters())


def test_wrong_reference_trips_the_guard(make_batch, loader, trainer):
    module = DPOModule("tiny_llava_onevision", lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        [p.add_(0.01) for n, p in module.named_parameters() if "lora_B" in n]  # an adapter that was trained before
    with pytest.raises(ValueError, match="policy and reference differ by"):
        trainer(max_steps=1).fit(module, loader([make_batch("preference")]))


def test_loss_away_from_ln2_trips_the_guard(make_batch, loader, trainer):
    class Shifted(DPOLoss):
        def forward(self, *logps):
            return super().forward(*logps) + 0.1

    with pytest.raises(ValueError, match="should be ln 2"):
        trainer(max_steps=1).fit(
            DPOModule("tiny_llava_onevision", loss=Shifted(), lora=SMALL), loader([make_batch("preference")])
        )


def test_unseen_video_trips_the_guard(make_batch, loader, trainer):
    module = DPOModule("tiny_llava_onevision", lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        [p.zero_() for n, p in module.named_parameters() if "multi_modal_projector" in n]
    with pytest.raises(ValueError, match="blanking the video changes no log-probability"):
        trainer(max_steps=1).fit(module, loader([make_batch("preference")]))
    module = DPOModule("tiny_llava_onevision", lora=SMALL, check_video=False)
    trainer(max_steps=1).fit(module, loader([make_batch("preference")]))


def test_infinite_logps_trip_the_guard(make_batch, loader, trainer):
    module = DPOModule("tiny_llava_onevision", lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        module.base.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"log-probabilities of the policy are not finite"):
        trainer(max_steps=1).fit(module, loader([make_batch("preference")]))


def test_infinite_reference_logps_trip_the_guard(make_batch, loader, trainer):
    class Broken(DPOModule):
        def reference_logps(self, batch, features):
            logps = super().reference_logps(batch, features)
            return logps._replace(tokens=logps.tokens * float("nan"))

    with pytest.raises(ValueError, match="log-probabilities of the reference are not finite"):
        trainer(max_steps=1).fit(Broken("tiny_llava_onevision", lora=SMALL), loader([make_batch("preference")]))


NEGATIVES = [{"text": "two stars, one of them green"}, {"text": "nothing at all"}]


@pytest.mark.parametrize("name", NAMES)
def test_more_negatives_equal_rows_taken_one_by_one(make_batch, name):
    batch = make_batch("preference", name, with_ground_truth=True, num_negatives=3, negatives=NEGATIVES)
    module = DPOModule(name, loss=losses.NegativesLoss(DPOLoss(0.3), [0.6, 0.3, 0.1]), lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        [p.add_(0.03) for n, p in module.named_parameters() if "lora_B" in n]
        policy = torch.stack([row_logps(module, batch, row) for row in range(10)]).view(5, 2)
        with module.net.disable_adapter():
            reference = torch.stack([row_logps(module, batch, row) for row in range(8)]).view(4, 2)
        logps = module.pair_logps(batch, module.encode(batch))
        assert len(logps.reference.sums) == 8
        parts = module.objective(batch, logps)
        ratios = policy[:4] - reference
        each = [dpo_loss(dpo_margins(ratios[0], ratios[k], 0.3)) for k in (1, 2, 3)]
        expected = (0.6 * each[0] + 0.3 * each[1] + 0.1 * each[2]).mean()
        torch.testing.assert_close(parts["loss/dpo"].value, expected, atol=1e-4, rtol=1e-4)
        lengths = logps.policy.lengths
        torch.testing.assert_close(parts["loss/ce_ground_truth"].value, -policy[4].sum() / lengths[8:].sum())


def test_another_number_of_negatives_than_the_loss_compares_is_refused(make_batch, loader, trainer):
    module = DPOModule("tiny_llava_onevision", loss=losses.MDPOLoss(), lora=SMALL)
    with pytest.raises(
        ValueError, match=r"MDPOLoss compares chosen with 2 .* the batch has 1: set data.num_negatives: 2"
    ):
        trainer(max_steps=1).fit(module, loader([make_batch("preference")]))
    module = DPOModule("tiny_llava_onevision", lora=SMALL)
    batch = make_batch("preference", num_negatives=2, negatives=NEGATIVES)
    with pytest.raises(ValueError, match=r"DPOLoss compares chosen with 1 .* the batch has 2"):
        trainer(max_steps=1).fit(module, loader([batch]))


@pytest.mark.parametrize("loss", [losses.SimPOLoss(), losses.ORPOLoss()])
def test_a_loss_without_reference_never_runs_it_and_says_so(make_batch, loader, trainer, loss, monkeypatch):
    said, seen = [], []
    monkeypatch.setattr("lit_vpo.modules.dpo.rank_zero_info", said.append)

    class Spy(DPOModule):
        def reference_logps(self, batch, features):
            raise AssertionError("the reference ran")

        def log_dict(self, values, **more):
            seen.append({k: float(v) for k, v in values.items()})
            super().log_dict(values, **more)

    # no adapter is needed, and policy = reference is not asked for
    module = Spy("tiny_llava_onevision", loss=loss, tuning="language_model", optimizer=adamw)
    trainer(max_steps=4).fit(module, loader([make_batch("preference")] * 4))
    assert len(said) == 1 and f"{type(loss).__name__} needs no reference" in said[0] and "ln 2" in said[0]
    assert seen[-1]["rewards/margins"] > seen[0]["rewards/margins"] and seen[-1]["loss/dpo"] < seen[0]["loss/dpo"]
    assert not {"kl", "logps_drift/chosen", "logps_drift/rejected"} & set(seen[0])
    batch = make_batch("preference")
    with torch.no_grad():
        logps = module.pair_logps(batch, module.encode(batch)).policy
    means = loss.beta * logps.sums / logps.lengths
    trainer(max_steps=4).validate(module, loader([batch]), verbose=False)
    assert seen[-1]["val/rewards/chosen"] == pytest.approx(means[:2].mean().item(), rel=1e-5)


def test_written_frozen_weights_are_noticed(make_batch, loader, trainer):
    class Writing(DPOModule):
        def on_train_batch_end(self, *args):
            with torch.no_grad():
                self.base.get_submodule(self.family.vision).embeddings.patch_embedding.bias.add_(1)

    with pytest.raises(ValueError, match="frozen weights changed"):
        trainer(max_steps=1).fit(Writing("tiny_llava_onevision", lora=SMALL), loader([make_batch("preference")]))


def test_evaluation_and_protocols(make_batch, loader, trainer):
    module = DPOModule("tiny_llava_onevision", lora=SMALL)
    assert isinstance(module, HasNetwork) and isinstance(module, HasAdapter) and isinstance(module, HasReference)
    outputs = []

    class Keep(Callback):
        def on_validation_batch_end(self, trainer, pl_module, output, *args):
            outputs.append(output)

    run = trainer(callbacks=[Keep()])
    run.validate(module, loader([make_batch("preference"), make_batch("preference", size=3)]), verbose=False)
    assert run.callback_metrics["val/loss/dpo"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.callback_metrics["val/rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert [output["margins"].shape for output in outputs] == [(2,), (3,)]
    assert run.callback_metrics["val/kl"] == pytest.approx(0, abs=1e-5)


def test_bad_settings(make_batch):
    with pytest.raises(ValueError, match="beta must be > 0, got 0"):
        DPOLoss(beta=0)
    for reference in ("adapter_off", "second_adapter"):
        with pytest.raises(ValueError, match=f"reference: {reference} needs tuning: lora, got 'full'"):
            DPOModule("tiny_llava_onevision", tuning="full", reference=reference)
    with pytest.raises(ValueError, match="reference must be one of adapter_off, second_adapter, frozen_copy"):
        DPOModule("tiny_llava_onevision", reference="off")
    for more in ({"reference": "adapter_off"}, {"reference_cache": "cache"}):
        with pytest.raises(ValueError, match="the loss needs no reference"):
            DPOModule("tiny_llava_onevision", loss=losses.SimPOLoss(), **more)
    for wrong in ({"nll_weight": -1}, {"loss_weight": 0}, {"loss_weight": -1, "ce_weight": 1}):
        with pytest.raises(ValueError, match="loss_weight, nll_weight, ce_weight must be >= 0 and not all 0"):
            DPOModule("tiny_llava_onevision", **wrong)
    with pytest.raises(ValueError, match="reduction must be one of"):
        DPOModule("tiny_llava_onevision", ce_reduction="mean")
    module = DPOModule("tiny_llava_onevision", ce_weight=0.1, lora=SMALL)
    module.configure_model()
    batch = make_batch("preference")
    with pytest.raises(ValueError, match="needs ground-truth rows"):
        module.objective(batch, module.pair_logps(batch, module.encode(batch)))


def test_a_record_of_weight_0_counts_nothing_and_weights_weigh(make_batch):
    module = DPOModule("tiny_llava_onevision", loss=losses.HingeLoss(), nll_weight=0.5, lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        [p.add_(0.05) for n, p in module.named_parameters() if "lora_B" in n]
    batch = make_batch("preference")

    def parts(**more):
        rows = batch | more
        return {
            n: float(m.value) for n, m in module.objective(rows, module.pair_logps(rows, module.encode(rows))).items()
        }

    first, second = (parts(weight=torch.tensor(w)) for w in ([1.0, 0.0], [0.0, 1.0]))
    assert abs(first["loss/dpo"] - second["loss/dpo"]) > 1e-3
    mixed = parts(weight=torch.tensor([1.0, 3.0]))
    assert mixed["loss/dpo"] == pytest.approx((first["loss/dpo"] + 3 * second["loss/dpo"]) / 4)
    single = make_batch("preference", size=1)
    alone = module.objective(single, module.pair_logps(single, module.encode(single)))
    assert float(alone["loss/nll_chosen"].value) == pytest.approx(first["loss/nll_chosen"], rel=1e-5)


def test_mdpo_refuses_negatives_that_are_no_corrupted_video(make_batch):
    module = DPOModule("tiny_llava_onevision", loss=losses.MDPOLoss(), lora=SMALL)
    module.configure_model()
    batch = make_batch("preference", num_negatives=2, negatives=NEGATIVES)
    with pytest.raises(ValueError, match="needs the chosen text on a corrupted video"):
        module.pair_logps(batch, module.encode(batch))
    same = make_batch("preference", num_negatives=2, size=1, negatives=[{"text": "a blue square grows, then 0 spins"}])
    with pytest.raises(ValueError, match="needs the chosen text on a corrupted video"):
        module.pair_logps(same, module.encode(same))
    with pytest.raises(
        ValueError, match=r"compares chosen with 2 rejected responses, the batch has 1: set data.num_neg"
    ):
        module.pair_logps(make_batch("preference"), [])


SFT = {"mode": "sft", "chosen": None, "rejected": None}


def test_records_of_mode_sft_take_plain_cross_entropy_and_no_part_in_the_pairs(make_batch):
    module = DPOModule("tiny_llava_onevision", loss=losses.HingeLoss(), nll_weight=0.5, ce_weight=0.3, lora=SMALL)
    module.configure_model()
    with torch.no_grad():
        [p.add_(0.05) for n, p in module.named_parameters() if "lora_B" in n]

    def parts(batch):
        means = module.objective(batch, module.pair_logps(batch, module.encode(batch)))
        return {name: (float(mean.value), float(mean.size)) for name, mean in means.items()}

    mixed = parts(make_batch("preference", each=[{}, SFT], with_ground_truth=True))
    pair = parts(make_batch("preference", size=1, with_ground_truth=True))
    for name in ("loss/dpo", "loss/nll_chosen", "loss/ce_ground_truth"):
        assert mixed[name] == pytest.approx(pair[name], rel=1e-4)
    sft = SFTModule("tiny_llava_onevision", lora=SMALL)
    sft.configure_model()
    sft.load_state_dict({n: p for n, p in module.state_dict().items() if n.startswith("net.")}, strict=False)
    batch = make_batch("instruction")
    logps = sft.logps(batch, sft.encode(batch))
    second = float(-logps.sums[1] / logps.lengths[1]), float(logps.lengths[1])
    assert mixed["loss/sft"] == pytest.approx(second, rel=1e-4)
    assert "loss/sft" not in pair


def test_a_batch_of_sft_records_alone_trains(make_batch, loader, trainer):
    batch = make_batch("preference", each=[SFT] * 2)
    module = DPOModule("tiny_llava_onevision", lora=SMALL, optimizer=adamw)
    run = trainer(max_steps=1)
    run.fit(module, loader([batch]))
    assert run.callback_metrics["loss/total"] == run.callback_metrics["loss/sft"] > 1
    assert run.callback_metrics["grad_norm"] > 0
