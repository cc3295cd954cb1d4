"""The equations of preference losses, as pure functions of tensors; all over B pairs.

Notation of the papers: y_w chosen, y_l rejected, s(y) = log pi(y | x) *summed* over tokens, s_ref the same of the
reference, r(y) = s(y) - s_ref(y) the logratio, |y| the number of tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_vpo.losses.logps import Logps


def dpo_margins(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """D of DPO: the implicit reward of chosen over rejected.

    Args:
        chosen: (B,) logratios.
        rejected: (B,) logratios.
        beta: Scale of the implicit reward.

    Returns:
        (B,)
    """
    # (T1) D = beta {[s(y_w) - s_ref(y_w)] - [s(y_l) - s_ref(y_l)]}
    return beta * (chosen - rejected)


def dpo_loss(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The sigmoid loss, (B,) from margins (B,).

    Rafailov et al. (arXiv 2305.18290) eq. 7; with smoothing, Mitchell's note on noisy labels (cdpo.pdf) eq. 3.

    Args:
        margins: From `dpo_margins`.
        label_smoothing: Probability eps that a label is flipped.
    """
    # L = -(1 - eps) log sigma(D) - eps log sigma(-D); at eps = 0 (T2) L = -log sigma(D)
    return -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)


def robust_loss(margins: Tensor, label_smoothing: float) -> Tensor:
    """Robust DPO, (B,): unbiased under labels flipped with probability eps. Chowdhury et al. (arXiv 2403.00409).

    Args:
        margins: (B,) from `dpo_margins`.
        label_smoothing: eps, below 1/2.
    """
    # their unbiased estimate, section 3: L = [-(1 - eps) log sigma(D) + eps log sigma(-D)] / (1 - 2 eps)
    flipped = label_smoothing * F.logsigmoid(-margins)
    return (-(1 - label_smoothing) * F.logsigmoid(margins) + flipped) / (1 - 2 * label_smoothing)


def hinge_loss(margins: Tensor) -> Tensor:
    """SLiC's hinge on the implicit reward, (B,), as in RSO (Liu et al., arXiv 2309.06657, section 3).

    Args:
        margins: (B,) from `dpo_margins`.
    """
    return torch.relu(1 - margins)  # L = max(0, 1 - D)


def ipo_loss(differences: Tensor, beta: float) -> Tensor:
    """IPO, (B,). Azar et al. (arXiv 2310.12036) eq. 17.

    Args:
        differences: (B,) h = r(y_w) - r(y_l), of sums or of means over tokens.
        beta: Their tau.
    """
    return (differences - 1 / (2 * beta)) ** 2  # eq. 17: (h - 1 / (2 tau))^2


def apo_zero_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """APO-zero, (B,): raises chosen, lowers rejected. D'Oosterlinck et al. (arXiv 2408.06266) eq. 7.

    Args:
        chosen: (B,) rewards beta r(y_w).
        rejected: (B,) rewards beta r(y_l).
    """
    return (1 - torch.sigmoid(chosen)) + torch.sigmoid(rejected)


def apo_down_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """APO-down, (B,): lowers both, rejected more. D'Oosterlinck et al. (arXiv 2408.06266) eq. 8.

    Args:
        chosen: (B,) rewards beta r(y_w).
        rejected: (B,) rewards beta r(y_l).
    """
    return torch.sigmoid(chosen) + (1 - torch.sigmoid(chosen - rejected))


def dpop_margins(chosen: Tensor, rejected: Tensor, beta: float, penalty: float) -> Tensor:
    """DPO-Positive's margin, (B,): less where chosen has become less likely. Pal et al. (arXiv 2402.13228) eq. 3.

    Args:
        chosen: (B,) logratios.
        rejected: (B,) logratios.
        beta: Scale of the margin.
        penalty: Their lambda.
    """
    # eq. 3: beta (r(y_w) - r(y_l) - lambda max(0, s_ref(y_w) - s(y_w)))
    return beta * (chosen - rejected - penalty * torch.relu(-chosen))


def desensitised_sums(logps: Logps, shared: Tensor, alpha: float) -> Tensor:
    """LD-DPO's log-probabilities, (B,): tokens beyond the shared length count alpha. Liu et al. (arXiv 2409.06411).

    Args:
        logps: Of B responses.
        shared: (B,) long, l_p = min(|y_w|, |y_l|).
        alpha: From 0 (they do not count) to 1 (DPO).
    """
    starts = logps.lengths.cumsum(0) - logps.lengths
    places = torch.arange(len(logps.tokens), device=logps.tokens.device) - starts[logps.rows]
    # their modified likelihood: pi^(y) = prod_{i <= l_p} p(y_i) prod_{i > l_p} p(y_i)^alpha
    weights = torch.where(places < shared[logps.rows], 1.0, alpha)
    return torch.zeros_like(logps.sums).index_add(0, logps.rows, weights * logps.tokens)


def anchor_loss(chosen: Tensor, delta: float) -> Tensor:
    """mDPO's anchor, (B,): the reward of chosen shall exceed delta. Wang et al. (arXiv 2406.11839), section 3.

    Args:
        chosen: (B,) rewards beta r(y_w).
        delta: The anchor.
    """
    return -F.logsigmoid(chosen - delta)  # L_AncPO = -log sigma(beta r(y_w) - delta)


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """SimPO, (B,). Meng et al. (arXiv 2405.14734) eq. 6.

    Args:
        chosen: (B,) *mean* logps of the policy.
        rejected: (B,) *mean* logps of the policy.
        beta: Scale of the reward.
        gamma: Target margin of the rewards.
    """
    # eq. 6: -log sigma(beta / |y_w| s(y_w) - beta / |y_l| s(y_l) - gamma)
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """ORPO's L_OR, (B,). Hong et al. (arXiv 2403.07691) eq. 7.

    Args:
        chosen: (B,) *mean* logps of the policy.
        rejected: (B,) *mean* logps of the policy.
    """
    # eq. 4: odds(y) = P(y) / (1 - P(y)), P the mean likelihood exp(s / |y|); eq. 7: -log sigma(log odds_w / odds_l)
    return -F.logsigmoid((chosen - _log1mexp(chosen)) - (rejected - _log1mexp(rejected)))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, by the form that does not cancel (Maechler 2012)."""
    x = x.clamp_max(-torch.finfo(x.dtype).tiny)  # a certain response: its odds are large, not infinite
    # each branch is evaluated where it is not taken too, and must not send inf * 0 = nan to the gradient
    near = torch.log(-torch.expm1(x.clamp_min(-1.0)))
    far = torch.log1p(-torch.exp(x.clamp_max(-0.5)))
    return torch.where(x > -0.6931472, near, far)
