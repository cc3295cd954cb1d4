"""The equations against hand-worked numbers and independent oracles."""

import math

import pytest
import torch
import torch.nn.functional as F

from lit_vpo.losses import DPOLoss, dpo_loss, dpo_margins, nll, response_mask, sequence_logps, token_logps

T = torch.tensor


def test_dpo_by_hand():
    """Policy gains 2 nats on chosen and loses 1 on rejected, against the reference: D = 0.1 (2 - (-1)) = 0.3.

    sigma(0.3) = 1 / (1 + e^-0.3) = 1 / 1.740818 = 0.574443; -ln 0.574443 = 0.554355. The other pair is the mirror
    image: D = -0.3, sigma = 0.425557, -ln = 0.854355.
    """
    policy_chosen, policy_rejected = T([-10.0, -13.0]), T([-21.0, -18.0])
    reference_chosen, reference_rejected = T([-12.0, -12.0]), T([-20.0, -20.0])
    margins = dpo_margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1)
    torch.testing.assert_close(margins, T([0.3, -0.3]))
    torch.testing.assert_close(dpo_loss(margins), T([0.554355, 0.854355]), atol=1e-6, rtol=0)
    losses = DPOLoss(beta=0.1)(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    torch.testing.assert_close(losses, dpo_loss(margins))


def test_equal_policy_and_reference_give_ln2():
    logps = torch.randn(2, 5) * 100
    torch.testing.assert_close(DPOLoss(beta=0.7)(*logps, *logps), torch.full((5,), math.log(2)))


def test_gradient_is_minus_beta_sigma():
    """d L / d s(y_w) = -beta sigma(-D), equation 7 of the DPO paper; at D = 0.3 and beta = 0.1: -0.0425557."""
    chosen, rejected = T([-10.0], requires_grad=True), T([-21.0], requires_grad=True)
    DPOLoss(beta=0.1)(chosen, rejected, T([-12.0]), T([-20.0])).sum().backward()
    torch.testing.assert_close(chosen.grad, T([-0.0425557]), atol=1e-6, rtol=0)
    torch.testing.assert_close(rejected.grad, T([0.0425557]), atol=1e-6, rtol=0)


def test_huge_margins_stay_finite():
    torch.testing.assert_close(dpo_loss(T([-1e4, 1e4])), T([1e4, 0.0]))


def test_token_logps_are_log_softmax():
    logits, labels = torch.randn(4, 7, dtype=torch.bfloat16), T([0, 3, 6, 2])
    expected = logits.double().log_softmax(-1)[torch.arange(4), labels].float()
    torch.testing.assert_close(token_logps(logits, labels), expected)


def test_sequence_logps_score_every_response_token_once():
    """The first response token is read off the last prompt position; padding and prompt count for nothing."""
    labels = T([[-100, -100, 4, 2], [-100, 1, -100, -100], [-100, 3, 0, 1]])
    logits = torch.randn(3, 4, 5)
    mask = response_mask(labels)
    assert mask.tolist() == [[False, True, True, False], [True, False, False, False], [True, True, True, False]]
    logps = sequence_logps(logits[mask], torch.nn.Identity(), labels, chunk=2)
    full = -F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none").view(3, 3)
    torch.testing.assert_close(logps.sums, full.sum(1))
    assert logps.lengths.tolist() == [2, 1, 3] and logps.rows.tolist() == [0, 0, 1, 2, 2, 2]
    torch.testing.assert_close(logps.tokens, full[labels[:, 1:] != -100])


def test_nll_reductions_by_hand():
    """Sums -6 and -2 over 3 and 2 tokens: by token 8 / 5 = 1.6, by sample (2 + 1) / 2 = 1.5; the first weighs 3 times:
    by token (18 + 2) / (9 + 2) = 1.818182, by sample (3 * 2 + 1) / 4 = 1.75."""
    sums, lengths, weight = T([-6.0, -2.0]), T([3, 2]), T([3.0, 1.0])
    assert nll(sums, lengths, "token").item() == pytest.approx(1.6)
    assert nll(sums, lengths, "sample").item() == pytest.approx(1.5)
    assert nll(sums, lengths, "token", weight).item() == pytest.approx(20 / 11)
    assert nll(sums, lengths, "sample", weight).item() == pytest.approx(1.75)


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_nll_of_a_batch_without_weight_is_zero(reduction):
    sums = T([-6.0, -2.0]).requires_grad_()
    loss = nll(sums, T([3, 2]), reduction, T([0.0, 0.0]))
    loss.backward()
    assert loss.item() == 0 and sums.grad.tolist() == [0, 0]


@pytest.mark.parametrize("beta", [0, -0.1, float("nan")])
def test_wrong_beta(beta):
    with pytest.raises(ValueError, match="beta must be > 0"):
        DPOLoss(beta=beta)


def test_unknown_reduction():
    with pytest.raises(ValueError, match="reduction must be one of token, sample, got 'mean'"):
        nll(T([-1.0]), T([1]), "mean")
