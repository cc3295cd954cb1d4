"""The equations against hand-worked numbers and independent oracles."""

import math

import pytest
import torch
import torch.nn.functional as F

from lit_vpo import losses
from lit_vpo.batch import Count
from lit_vpo.losses import (
    DPOLoss,
    Logps,
    PreferenceLoss,
    Scored,
    blocks,
    desensitised_sums,
    dpo_loss,
    dpo_margins,
    nll,
    odds_ratio_loss,
    over_window,
    response_mask,
    sequence_logps,
    token_logps,
)

T = torch.tensor


def logps(*rows):
    """Logps of rows given by their tokens."""
    lengths = T([len(row) for row in rows])
    tokens = torch.cat([torch.as_tensor(row, dtype=torch.float32) for row in rows])
    numbers = torch.arange(len(rows)).repeat_interleave(lengths)
    return Logps(tokens, numbers, torch.stack([torch.as_tensor(row).float().sum() for row in rows]), lengths)


def scored(*ratios, policy=None):
    """Rows of a role from their tokens' logratios, over a policy's tokens of -3 each by default."""
    own = policy or [[-3.0] * len(row) for row in ratios]
    pairs = zip(own, ratios, strict=True)
    return Scored(logps(*own), logps(*([p - d for p, d in zip(*pair, strict=True)] for pair in pairs)))


# one pair and its mirror image: logratios +2 over 4 tokens and -1 over 2
GAIN, LOSS = [1.0, 0.0, 0.5, 0.5], [-0.5, -0.5]
CHOSEN, REJECTED = scored(GAIN, LOSS), scored(LOSS, GAIN)
HALF = scored([0.5, 0.5], [0.5, 0.5])


def by_hand(loss, expected, *roles):
    torch.testing.assert_close(loss(*(roles or (CHOSEN, REJECTED))), T(expected), atol=2e-6, rtol=0)


def test_dpo_by_hand():
    """Policy gains 2 nats on chosen and loses 1 on rejected, against the reference: D = 0.1 (2 - (-1)) = 0.3.

    sigma(0.3) = 1 / (1 + e^-0.3) = 1 / 1.740818 = 0.574443; -ln 0.574443 = 0.554355. The other pair is the mirror
    image: D = -0.3, sigma = 0.425557, -ln = 0.854355.
    """
    margins = dpo_margins(T([2.0, -1.0]), T([-1.0, 2.0]), beta=0.1)
    torch.testing.assert_close(margins, T([0.3, -0.3]))
    torch.testing.assert_close(dpo_loss(margins), T([0.554355, 0.854355]), atol=1e-6, rtol=0)
    by_hand(DPOLoss(beta=0.1), [0.554355, 0.854355])
    torch.testing.assert_close(DPOLoss(beta=0.1).rewards(CHOSEN), T([0.2, -0.1]))


def test_label_smoothing_by_hand():
    """0.9 * 0.554355 + 0.1 * 0.854355 = 0.584355; 0.9 * 0.854355 + 0.1 * 0.554355 = 0.824355."""
    by_hand(DPOLoss(beta=0.1, label_smoothing=0.1), [0.584355, 0.824355])


def test_robust_by_hand():
    """(0.9 * 0.554355 - 0.1 * 0.854355) / 0.8 = 0.516855; (0.9 * 0.854355 - 0.1 * 0.554355) / 0.8 = 0.891855."""
    by_hand(losses.RobustLoss(beta=0.1, label_smoothing=0.1), [0.516855, 0.891855])


def test_hinge_by_hand():
    """1 - 0.3 and 1 + 0.3; at beta 0.5 the margin is 1.5: nothing is left of the first, 2.5 of the second."""
    by_hand(losses.HingeLoss(beta=0.1), [0.7, 1.3])
    by_hand(losses.HingeLoss(beta=0.5), [0.0, 2.5])


def test_ipo_by_hand():
    """Sums: (3 - 5)^2 = 4 and (-3 - 5)^2 = 64. Means: 2/4 - (-1/2) = 1, (1 - 5)^2 = 16 and (-1 - 5)^2 = 36."""
    by_hand(losses.IPOLoss(beta=0.1, normalisation="sum"), [4.0, 64.0])
    by_hand(losses.IPOLoss(beta=0.1), [16.0, 36.0])
    torch.testing.assert_close(losses.IPOLoss(beta=0.1).rewards(CHOSEN), T([0.05, -0.05]))


def test_sigmoid_norm_by_hand():
    """Means differ by 2/4 - (-1/2) = 1: at beta 0.3 the margin is 0.3 again."""
    by_hand(losses.SigmoidNormLoss(beta=0.3), [0.554355, 0.854355])


def test_apo_by_hand():
    """Rewards 0.2 and -0.1: sigma(0.2) = 0.549834, sigma(-0.1) = 0.475021, sigma(0.3) = 0.574443.

    Zero: 1 - 0.549834 + 0.475021 = 0.925187, mirrored 1 - 0.475021 + 0.549834 = 1.074813. Down: 0.549834 + 1 - 0.574443
    = 0.975391, mirrored 0.475021 + 1 - 0.425557 = 1.049463.
    """
    by_hand(losses.APOZeroLoss(beta=0.1), [0.925187, 1.074813])
    by_hand(losses.APODownLoss(beta=0.1), [0.975391, 1.049463])


def test_dpop_by_hand():
    """The first pair's chosen gained, so DPO's 0.554355. The second's lost 1: 0.1 (-1 - 2 - 5 * 1) = -0.8, and
    ln(1 + e^0.8) = ln 3.225541 = 1.171101."""
    by_hand(losses.DPOPLoss(beta=0.1, penalty=5.0), [0.554355, 1.171101])
    by_hand(losses.DPOPLoss(beta=0.1, penalty=0.0), [0.554355, 0.854355])


def test_length_desensitised_by_hand():
    """Two tokens are shared. The longer response's logratio is 1 + 0 + 0.5 (0.5 + 0.5) = 1.5, the shorter's -1:
    D = 0.1 * 2.5 = 0.25, ln(1 + e^-0.25) = ln 1.778801 = 0.575939; mirrored 0.825939."""
    by_hand(losses.LDDPOLoss(beta=0.1, alpha=0.5), [0.575939, 0.825939])
    by_hand(losses.LDDPOLoss(beta=0.1, alpha=1.0), [0.554355, 0.854355])
    sums = desensitised_sums(logps([-1.0, -2.0, -4.0], [-8.0]), T([1, 1]), 0.25)
    assert sums.tolist() == [-1 - 6 / 4, -8]


def test_simpo_by_hand():
    """Mean logps -0.5 and -1.5: 2 (1) - 1 = 1, ln(1 + e^-1) = 0.313262; mirrored 2 (-1) - 1 = -3, ln(1 + e^3) =
    3.048587. The reference, which would give something else, plays no part."""
    roles = scored([1.0, 1.0], [9.0], policy=[[-0.25, -0.75], [-1.5]]), scored([0.0], [0.0], policy=[[-1.5], [-0.5]])
    by_hand(losses.SimPOLoss(beta=2.0, gamma=1.0), [0.313262, 3.048587], *roles)
    by_hand(losses.SimPOLoss(beta=2.0), [0.313262, 3.048587], *(role._replace(reference=None) for role in roles))


def test_orpo_by_hand():
    """Likelihoods per token 1/2 and 1/4: odds 1 and 1/3, ratio 3, sigma(ln 3) = 3/4; -ln 3/4 = 0.287682.

    With NLL: 0.1 * 0.287682 + ln 2 = 0.721915. Mirrored: -ln 1/4 = 1.386294, 0.138629 + ln 4 = 1.524924.
    """
    half, quarter = [math.log(0.5)] * 2, [math.log(0.25)] * 3
    roles = Scored(logps(half, quarter), None), Scored(logps(quarter, half), None)
    torch.testing.assert_close(odds_ratio_loss(roles[0].policy.means, roles[1].policy.means), T([0.287682, 1.386294]))
    by_hand(losses.ORPOLoss(beta=0.1), [0.721915, 1.524924], *roles)
    by_hand(losses.ORPOLoss(beta=0.1, nll_weight=0.0), [0.028768, 0.138629], *roles)


@pytest.mark.parametrize("mean", [-1e-30, -1e-6, -0.6931, -0.6932, -50.0])
def test_odds_of_sure_and_hopeless_responses_have_gradients(mean):
    chosen, rejected = T([mean], requires_grad=True), T([-1.0])
    loss = odds_ratio_loss(chosen, rejected)
    loss.backward()
    p, q = math.exp(mean), math.exp(-1.0)
    assert loss.isfinite().all() and chosen.grad.isfinite().all()
    odds = mean - math.log(-math.expm1(mean)) - (-1.0 - math.log1p(-q))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-odds)), rel=1e-4, abs=1e-7)
    if -1 < mean < -1e-3:  # d/dm -log sigma(o) = -(1 - sigma(o)) / (1 - p)
        assert chosen.grad.item() == pytest.approx(-1 / (1 + math.exp(odds)) / (1 - p), rel=1e-3)


def test_mdpo_by_hand():
    """DPO 0.554355. On the corrupted video chosen gained 1 only: D = 0.1 (2 - 1) = 0.1, ln(1 + e^-0.1) = 0.644397.

    Anchor at 0.1: the reward 0.2 exceeds it by 0.1: 0.644397. Sum 1.843149; without the anchor 1.198752. Mirrored:
    0.854355; D = 0.1 (-1 - 1) = -0.2, 0.798139; -0.1 - 0.1 = -0.2, 0.798139: 2.450633.
    """
    roles = CHOSEN, REJECTED, HALF
    by_hand(losses.MDPOLoss(beta=0.1, delta=0.1), [1.843149, 2.450633], *roles)
    by_hand(losses.MDPOLoss(beta=0.1, anchor_weight=0.0), [1.198752, 1.652494], *roles)


def test_weighted_negatives_by_hand():
    """0.7 * 0.554355 + 0.3 * 0.644397 = 0.581368 (the second negative gained 1); 0.7 * 0.854355 + 0.3 * 0.798139."""
    loss = losses.NegativesLoss(DPOLoss(beta=0.1), [0.7, 0.3])
    by_hand(loss, [0.581368, 0.837490], CHOSEN, REJECTED, HALF)
    assert loss.num_rejected == 2 and loss.starts_at_ln2 and loss.needs_reference
    assert not losses.NegativesLoss(DPOLoss(), [1.0, 0.3]).starts_at_ln2
    with pytest.raises(ValueError, match="argument 2 is"):
        loss(CHOSEN, REJECTED)


def test_a_sum_of_losses_by_hand():
    """0.554355 + 0.5 * 0.7 = 0.904355; 0.854355 + 0.5 * 1.3 = 1.504355."""
    loss = losses.SumLoss([DPOLoss(beta=0.1), losses.HingeLoss(beta=0.1)], [1.0, 0.5])
    by_hand(loss, [0.904355, 1.504355])
    assert loss.num_rejected == 1 and not loss.starts_at_ln2
    both = losses.SumLoss([losses.SimPOLoss(), losses.MDPOLoss()], [1.0, 1.0])
    assert both.num_rejected == 2 and both.needs_reference
    expected = losses.SimPOLoss()(CHOSEN, REJECTED) + losses.MDPOLoss()(CHOSEN, REJECTED, HALF)
    torch.testing.assert_close(both(CHOSEN, REJECTED, HALF), expected)


def test_equal_policy_and_reference_give_ln2_where_a_loss_says_so():
    equal = [scored([0.0] * 3, [0.0] * 5), scored([0.0] * 2, [0.0] * 7)]
    named = [getattr(losses, name) for name in losses.__all__ if name.endswith("Loss")]
    simple = [each() for each in named if each not in (PreferenceLoss, losses.NegativesLoss, losses.SumLoss)]
    simple += [DPOLoss(0.7, 0.2), losses.NegativesLoss(DPOLoss(), [1.0]), losses.SumLoss([DPOLoss()] * 2, [0.4, 0.6])]
    starting = [loss for loss in simple if loss.starts_at_ln2]
    assert len(starting) == 7
    for loss in starting:
        torch.testing.assert_close(loss(*equal), torch.full((2,), math.log(2)))


def test_gradient_is_minus_beta_sigma():
    """d L / d s(y_w) = -beta sigma(-D), equation 7 of the DPO paper; at D = 0.3 and beta = 0.1: -0.0425557."""
    chosen, rejected = T([-10.0], requires_grad=True), T([-21.0], requires_grad=True)
    dpo_loss(dpo_margins(chosen - T([-12.0]), rejected - T([-20.0]), 0.1)).sum().backward()
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


def test_chunks_change_no_gradient_and_bound_the_logits():
    labels, head, sizes = torch.randint(0, 50, (4, 30)), torch.nn.Linear(8, 50), []
    states = torch.randn(4 * 29, 8, requires_grad=True)

    def scored(hidden):
        sizes.append(len(hidden))
        return head(hidden)

    results = []
    for chunk in (1000, 7):
        sizes.clear()
        grads = torch.autograd.grad(
            (sequence_logps(states, scored, labels, chunk).sums ** 2).sum(), [states, head.weight]
        )
        results.append((grads, max(sizes)))
    assert [size for _, size in results] == [116, 7]
    for one, other in zip(*(grads for grads, _ in results), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_row_without_a_response_token_is_refused():
    labels = T([[-100, 4], [-100, -100], [3, -100]])  # no position predicts the first token of a row
    with pytest.raises(ValueError, match=r"rows \[1, 2\] of the batch have no response token"):
        sequence_logps(torch.randn(1, 5), torch.nn.Identity(), labels)


def test_blocks_are_the_roles():
    whole = logps([-1.0, -2.0], [-3.0], [-4.0], [-5.0, -6.0, -7.0])
    parts = logps([-1.0, -2.0], [-3.0]), logps([-4.0], [-5.0, -6.0, -7.0])
    for block, expected in zip(blocks(whole, 2), parts, strict=True):
        assert all(torch.equal(mine, other) for mine, other in zip(block, expected, strict=True))


def test_nll_reductions_by_hand():
    """Sums -6 and -2 over 3 and 2 tokens: by token 8 / 5 = 1.6, by sample (2 + 1) / 2 = 1.5; the first weighs 3 times:
    by token (18 + 2) / (9 + 2) = 1.818182, by sample (3 * 2 + 1) / 4 = 1.75."""
    sums, lengths, weight = T([-6.0, -2.0]), T([3, 2]), T([3.0, 1.0])
    assert nll(sums, lengths, "token").value.item() == pytest.approx(1.6)
    assert nll(sums, lengths, "sample").value.item() == pytest.approx(1.5)
    assert nll(sums, lengths, "token", weight).value.item() == pytest.approx(20 / 11)
    assert nll(sums, lengths, "sample", weight).value.item() == pytest.approx(1.75)


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_nll_of_a_batch_without_weight_is_zero(reduction):
    sums = T([-6.0, -2.0]).requires_grad_()
    loss = nll(sums, T([3, 2]), reduction, T([0.0, 0.0])).value
    loss.backward()
    assert loss.item() == 0 and sums.grad.tolist() == [0, 0]


def test_a_window_takes_the_place_of_the_batchs_own_size():
    """Sums -6 and -2 over 3 and 2 tokens; 10 tokens per batch of the window, or 4 responses: 8 / 10 and 3 / 4."""
    window = {"chosen": Count(sample=4.0, token=10.0)}
    for reduction, expected in (("token", 0.8), ("sample", 0.75)):
        mean = nll(T([-6.0, -2.0]), T([3, 2]), reduction)
        assert over_window(mean, window, "chosen", reduction).item() == pytest.approx(expected)
        assert torch.equal(over_window(mean, None, "chosen", reduction), mean.value)


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPOLoss(beta=0), "beta must be > 0, got 0"),
        (lambda: DPOLoss(beta=-0.1), "beta must be > 0"),
        (lambda: DPOLoss(beta=NAN), "beta must be > 0, got nan"),
        (lambda: losses.IPOLoss(beta=math.inf), "beta must be > 0, got inf"),
        (lambda: DPOLoss(label_smoothing=0.5), r"label_smoothing must lie in \[0, 0.5\), got 0.5"),
        (lambda: DPOLoss(label_smoothing=-0.1), "label_smoothing must lie in"),
        (lambda: losses.RobustLoss(label_smoothing=0.5), "label_smoothing must lie in"),
        (lambda: losses.RobustLoss(label_smoothing=NAN), "label_smoothing must lie in"),
        (lambda: losses.LDDPOLoss(alpha=1.1), r"alpha must lie in \[0, 1\], got 1.1"),
        (lambda: losses.LDDPOLoss(alpha=-0.1), "alpha must lie in"),
        (lambda: losses.DPOPLoss(penalty=-1), "penalty must lie in"),
        (lambda: losses.SimPOLoss(gamma=-1), "gamma must lie in"),
        (lambda: losses.ORPOLoss(nll_weight=-1), "nll_weight must lie in"),
        (lambda: losses.MDPOLoss(delta=NAN), "delta must be finite"),
        (lambda: losses.MDPOLoss(anchor_weight=-1), "anchor_weight must lie in"),
        (lambda: losses.IPOLoss(normalisation="token"), "normalisation must be 'mean' or 'sum'"),
        (lambda: losses.NegativesLoss(DPOLoss(), []), "weights must be >= 0"),
        (lambda: losses.NegativesLoss(losses.MDPOLoss()), "MDPOLoss compares 2 rejected responses by itself"),
        (lambda: losses.SumLoss([DPOLoss()], [1.0, 2.0]), "one weight for each loss, got 1 losses and 2 weights"),
        (lambda: losses.SumLoss([], []), "one weight for each loss"),
        (lambda: losses.SumLoss([DPOLoss()], [0.0]), "one of them above 0"),
        (lambda: nll(T([-1.0]), T([1]), "mean"), "reduction must be one of token, sample, got 'mean'"),
    ],
)  # fmt: skip
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
