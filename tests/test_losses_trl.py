"""Our losses against TRL's own code, run on the same per-token log-probabilities (extra `bench`)."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from lit_vpo import losses
from lit_vpo.losses import Logps, Scored

trl = pytest.importorskip("trl", reason="install the extra `bench`", minversion="1.16")

BETA, SMOOTHING, LENGTH = 0.3, 0.1, 9
SETTINGS = {"beta": BETA, "label_smoothing": SMOOTHING}


class Fake(torch.nn.Module):
    """Answers with given per-token log-probabilities, 0 outside responses as TRL's fused head does."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs):
        super().__init__()
        self.log_probs = log_probs

    def forward(self, **kwargs):
        zeros = torch.zeros_like(self.log_probs)
        return SimpleNamespace(log_probs=self.log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


@pytest.fixture
def batch():
    """Four pairs of responses of different length: completion mask (8, 10), logps of policy and reference (8, 9)."""
    draws = torch.Generator().manual_seed(0)
    mask = torch.zeros(8, LENGTH + 1, dtype=torch.long)
    for row, length in enumerate((3, 7, 1, 5, 4, 2, 6, 5)):
        mask[row, 2 : 2 + length] = 1
    policy, reference = (-2 * torch.rand(8, LENGTH, generator=draws) * mask[:, 1:] for _ in range(2))
    return mask, policy, reference


def roles(mask, policy, reference):
    """The same as our loss gets it."""
    shown = mask[:, 1:].bool()
    rows = shown.nonzero()[:, 0]
    policy, reference = (Logps(x[shown], rows, x.sum(1), shown.sum(1)) for x in (policy, reference))
    return [Scored(*pair) for pair in zip(losses.blocks(policy, 4), losses.blocks(reference, 4), strict=True)]


def trl_loss(batch, loss_types, weights=(1.0,), **more):
    """`DPOTrainer._compute_loss` itself, on a stub trainer."""
    mask, policy, reference = batch
    same = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    settings = {
        "model": Fake(policy), "ref_model": Fake(reference), "accelerator": same, "aux_loss_enabled": False,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None), "precompute_ref_logps": False, "ld_alpha": None,
        "f_divergence_type": "reverse_kl", "loss_types": loss_types, "loss_weights": weights, **SETTINGS,
        "use_weighting": False, "_metrics": defaultdict(lambda: defaultdict(list)), "_total_train_tokens": 0,
        "_tp_size": 1,
    }  # fmt: skip
    trainer = SimpleNamespace(**settings | more)
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    return trl.DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)


CASES = {
    "sigmoid": losses.DPOLoss(BETA),
    "hinge": losses.HingeLoss(BETA),
    "ipo": losses.IPOLoss(BETA),
    "robust": losses.RobustLoss(BETA, SMOOTHING),
    "apo_zero": losses.APOZeroLoss(BETA),
    "apo_down": losses.APODownLoss(BETA),
    "sigmoid_norm": losses.SigmoidNormLoss(BETA),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(batch, name):
    mask, policy, reference = batch
    gradients = []
    for compute in (
        lambda p: trl_loss((mask, p, reference), [name]),
        lambda p: CASES[name](*roles(mask, p, reference)),
    ):
        leaf = policy.clone().requires_grad_()
        value = compute(leaf).mean()
        value.backward()
        gradients.append((value.detach(), leaf.grad * mask[:, 1:]))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][1].abs().max() > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_length_desensitised_is_trls(batch, alpha):
    expected = trl_loss(batch, ["sigmoid"], ld_alpha=alpha)
    torch.testing.assert_close(losses.LDDPOLoss(BETA, alpha)(*roles(*batch)).mean(), expected)
    if alpha < 1:
        assert not torch.isclose(expected, trl_loss(batch, ["sigmoid"]))


def test_a_weighted_sum_is_trls(batch):
    ours = losses.SumLoss([losses.DPOLoss(BETA), losses.APOZeroLoss(BETA)], [0.8, 0.2])
    torch.testing.assert_close(ours(*roles(*batch)).mean(), trl_loss(batch, ["sigmoid", "apo_zero"], (0.8, 0.2)))


def test_mpo_with_nll_is_trls(batch):
    """TRL's `sft` term is the token mean over the chosen responses."""
    chosen, rejected = roles(*batch)
    ours = losses.DPOLoss(BETA)(chosen, rejected).mean()
    ours = ours + 0.5 * losses.nll(chosen.policy.sums, chosen.policy.lengths, "token").value
    torch.testing.assert_close(ours, trl_loss(batch, ["sigmoid", "sft"], (1.0, 0.5)))


def stub(**more):
    return SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")), alpha=0.0, **SETTINGS, **more)


def test_label_smoothing_is_trls(batch):
    """Only `CPOTrainer.cpo_loss` smooths the plain sigmoid; it subtracts what it is given, here logratios."""
    from trl.experimental.cpo import CPOTrainer

    chosen, rejected = roles(*batch)
    expected, *_ = CPOTrainer.cpo_loss(stub(loss_type="sigmoid"), chosen.logratios, rejected.logratios)
    torch.testing.assert_close(losses.DPOLoss(BETA, SMOOTHING)(chosen, rejected), expected)
    expected, *_ = CPOTrainer.cpo_loss(stub(loss_type="ipo"), chosen.logratios, rejected.logratios)
    torch.testing.assert_close(losses.IPOLoss(BETA, "sum")(chosen, rejected), expected)


def test_simpo_is_trls(batch):
    from trl.experimental.cpo import CPOTrainer

    chosen, rejected = roles(*batch)
    trainer = stub(loss_type="simpo", simpo_gamma=0.7)
    trainer.label_smoothing = 0.0
    expected, *_ = CPOTrainer.cpo_loss(trainer, chosen.policy.means, rejected.policy.means)
    torch.testing.assert_close(losses.SimPOLoss(BETA, 0.7)(chosen, rejected), expected)


def test_orpo_is_trls(batch):
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = roles(*batch)
    ratio, *_ = ORPOTrainer.odds_ratio_loss(stub(), chosen.policy.means, rejected.policy.means)
    torch.testing.assert_close(losses.ORPOLoss(BETA, nll_weight=0.0)(chosen, rejected), -ratio)
