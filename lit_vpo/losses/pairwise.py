"""Losses of a pair against a reference."""

from typing import Literal

import torch
from torch import Tensor

from lit_vpo.losses.base import PreferenceLoss, Scored, check_range
from lit_vpo.losses.equations import (
    apo_down_loss,
    apo_zero_loss,
    desensitised_sums,
    dpo_loss,
    dpo_margins,
    dpop_margins,
    hinge_loss,
    ipo_loss,
    robust_loss,
)

Normalisation = Literal["mean", "sum"]


class DPOLoss(PreferenceLoss):
    """Sigmoid DPO on summed log-probabilities (arXiv 2305.18290).

    Args:
        beta: Scale of the implicit reward; larger keeps the policy closer to the reference.
        label_smoothing: Probability that a label is wrong (conservative DPO), below 1/2.

    Raises:
        ValueError: Numbers out of range.
    """

    starts_at_ln2 = True

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        super().__init__(beta)
        self.label_smoothing = check_range("label_smoothing", label_smoothing, 0, 0.5, below=True)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return dpo_loss(self.margins(chosen, rejected), self.label_smoothing)


class SigmoidNormLoss(PreferenceLoss):
    """Sigmoid DPO on log-probabilities *averaged* over tokens (TRL's `sigmoid_norm`; Tulu 3, arXiv 2411.15124).

    Args:
        beta: Scale of the margin; ten times that of sums or more, because means differ by less.
    """

    starts_at_ln2 = True

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__(beta)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return dpo_loss(dpo_margins(chosen.mean_logratios, rejected.mean_logratios, self.beta))

    def rewards(self, scored: Scored) -> Tensor:
        """What the loss compares: logratios averaged over tokens, (B,)."""
        return self.beta * scored.mean_logratios


class RobustLoss(PreferenceLoss):
    """Sigmoid DPO that stays unbiased under flipped labels (arXiv 2403.00409), on sums.

    Args:
        beta: Scale of the implicit reward.
        label_smoothing: Probability that a label is flipped, below 1/2.
    """

    starts_at_ln2 = True

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.1) -> None:
        super().__init__(beta)
        self.label_smoothing = check_range("label_smoothing", label_smoothing, 0, 0.5, below=True)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return robust_loss(self.margins(chosen, rejected), self.label_smoothing)


class HingeLoss(PreferenceLoss):
    """max(0, 1 - margin) on sums (SLiC; arXiv 2305.10425, 2309.06657)."""

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return hinge_loss(self.margins(chosen, rejected))


class IPOLoss(PreferenceLoss):
    """Squared distance of the margin from 1 / (2 beta) (arXiv 2310.12036).

    Args:
        beta: The paper's tau.
        normalisation: `mean` averages logratios over tokens, as TRL does with the authors' consent; `sum` is the
            equation as printed, whose scale grows with the length.

    Raises:
        ValueError: Numbers out of range, or an unknown normalisation.
    """

    def __init__(self, beta: float = 0.1, normalisation: Normalisation = "mean") -> None:
        super().__init__(beta)
        if normalisation not in ("mean", "sum"):
            raise ValueError(f"normalisation must be 'mean' or 'sum', got {normalisation!r}")
        self.normalisation = normalisation

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return ipo_loss(self._logratios(chosen) - self._logratios(rejected), self.beta)

    def rewards(self, scored: Scored) -> Tensor:
        """What the loss compares, (B,)."""
        return self.beta * self._logratios(scored)

    def _logratios(self, scored: Scored) -> Tensor:
        return scored.mean_logratios if self.normalisation == "mean" else scored.logratios


class APOZeroLoss(PreferenceLoss):
    """Raises chosen and lowers rejected (arXiv 2408.06266), on sums; for chosen better than the model's own."""

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return apo_zero_loss(self.rewards(chosen), self.rewards(rejected))


class APODownLoss(PreferenceLoss):
    """Lowers both, rejected more (arXiv 2408.06266), on sums; for chosen worse than the model's own."""

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return apo_down_loss(self.rewards(chosen), self.rewards(rejected))


class DPOPLoss(PreferenceLoss):
    """DPO-Positive (arXiv 2402.13228), on sums: a chosen response less likely than at the start costs extra.

    Args:
        beta: Scale of the implicit reward.
        penalty: The paper's lambda. (It also multiplies rounding, so the ln 2 guard is off.)

    Raises:
        ValueError: Numbers out of range.
    """

    def __init__(self, beta: float = 0.1, penalty: float = 5.0) -> None:
        super().__init__(beta)
        self.penalty = check_range("penalty", penalty, 0, float("inf"), below=True)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return dpo_loss(dpop_margins(chosen.logratios, rejected.logratios, self.beta, self.penalty))


class LDDPOLoss(PreferenceLoss):
    """Length-desensitised DPO (arXiv 2409.06411), on sums: tokens beyond the shorter response's length count alpha.

    Args:
        beta: Scale of the implicit reward.
        alpha: Weight of those tokens, from 0 to 1 (1 is DPO).

    Raises:
        ValueError: Numbers out of range.
    """

    starts_at_ln2 = True

    def __init__(self, beta: float = 0.1, alpha: float = 0.5) -> None:
        super().__init__(beta)
        self.alpha = check_range("alpha", alpha, 0, 1)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        shared = torch.minimum(chosen.policy.lengths, rejected.policy.lengths)
        return dpo_loss(dpo_margins(self._logratios(chosen, shared), self._logratios(rejected, shared), self.beta))

    def _logratios(self, scored: Scored, shared: Tensor) -> Tensor:
        assert scored.reference is not None
        policy, reference = (
            desensitised_sums(logps, shared, self.alpha) for logps in (scored.policy, scored.reference)
        )
        return policy - reference
