"""Losses of a pair without a reference, on log-probabilities *averaged* over tokens."""

from torch import Tensor

from lit_vpo.losses.base import PreferenceLoss, Scored, check_range
from lit_vpo.losses.equations import odds_ratio_loss, simpo_loss


class SimPOLoss(PreferenceLoss):
    """SimPO (arXiv 2405.14734).

    Args:
        beta: Scale of the reward, the mean log-probability.
        gamma: Margin that the rewards shall keep.

    Raises:
        ValueError: Numbers out of range.
    """

    needs_reference = False

    def __init__(self, beta: float = 2.0, gamma: float = 1.0) -> None:
        super().__init__(beta)
        self.gamma = check_range("gamma", gamma, 0, float("inf"), below=True)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        return simpo_loss(chosen.policy.means, rejected.policy.means, self.beta, self.gamma)

    def rewards(self, scored: Scored) -> Tensor:
        """Scaled mean logps, (B,)."""
        return self.beta * scored.policy.means


class ORPOLoss(PreferenceLoss):
    """ORPO (arXiv 2403.07691): likelihood of chosen, and its odds over those of rejected.

    Args:
        beta: Weight of the odds ratio, the paper's lambda.
        nll_weight: Weight of each chosen response's mean negative log-likelihood; 0 leaves it to the module's own
            `nll_weight`, which can average over tokens instead.

    Raises:
        ValueError: Numbers out of range.
    """

    needs_reference = False

    def __init__(self, beta: float = 0.1, nll_weight: float = 1.0) -> None:
        super().__init__(beta)
        self.nll_weight = check_range("nll_weight", nll_weight, 0, float("inf"), below=True)

    def forward(self, chosen: Scored, rejected: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        odds = odds_ratio_loss(chosen.policy.means, rejected.policy.means)
        return self.beta * odds - self.nll_weight * chosen.policy.means  # eq. 6: L = L_SFT + lambda L_OR

    def rewards(self, scored: Scored) -> Tensor:
        """Scaled mean logps, (B,)."""
        return self.beta * scored.policy.means
