"""Losses made of others: several rejected responses, a corrupted video, weighted sums."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_vpo.losses.base import PreferenceLoss, Scored, check_range
from lit_vpo.losses.equations import anchor_loss, dpo_loss


class MDPOLoss(PreferenceLoss):
    """mDPO (arXiv 2406.11839): DPO, the same of the chosen text on a corrupted video, and an anchor; on sums.

    The second rejected role must hold the chosen text on a corrupted video (`pairs corrupt` writes such overlays).

    Args:
        beta: Scale of the implicit reward.
        delta: What the reward of chosen shall exceed (the released code: 0).
        conditional_weight: Of the term on the corrupted video.
        anchor_weight: Of the anchor.

    Raises:
        ValueError: Numbers out of range.
    """

    num_rejected = 2

    def __init__(
        self, beta: float = 0.1, delta: float = 0.0, conditional_weight: float = 1.0, anchor_weight: float = 1.0
    ) -> None:
        super().__init__(beta)
        if not math.isfinite(delta):
            raise ValueError(f"delta must be finite, got {delta}")
        self.delta = delta
        self.conditional_weight, self.anchor_weight = (
            check_range(name, weight, 0, math.inf, below=True)
            for name, weight in (("conditional_weight", conditional_weight), ("anchor_weight", anchor_weight))
        )

    @override
    def check(self, batch: Any) -> None:
        super().check(batch)
        size = len(batch["records"])
        chosen, corrupted = (slice(role * size, (role + 1) * size) for role in (0, 2))
        same_text = torch.equal(batch["labels"][chosen], batch["labels"][corrupted])
        if not same_text or (batch["video_index"][chosen] == batch["video_index"][corrupted]).any():
            raise ValueError(
                "MDPOLoss needs the chosen text on a corrupted video as second rejected response; write such an "
                "overlay with: python -m lit_vpo pairs corrupt"
            )

    def forward(self, chosen: Scored, rejected: Scored, corrupted: Scored) -> Tensor:
        """Loss of each pair, (B,)."""
        preference = dpo_loss(self.margins(chosen, rejected))
        conditional = dpo_loss(self.margins(chosen, corrupted))
        anchor = anchor_loss(self.rewards(chosen), self.delta)
        return preference + self.conditional_weight * conditional + self.anchor_weight * anchor


class NegativesLoss(PreferenceLoss):
    """A weighted sum of one pair loss against each of several rejected responses: sum_k w_k L(chosen, rejected_k).

    (VistaDPO, arXiv 2504.13122, gives two of them the weights .7 and .3, but adds them up inside one sigmoid.)

    Args:
        loss: Of one pair.
        weights: One for each rejected response, in their order.

    Raises:
        ValueError: Without a positive weight, or if the loss wants several rejected responses itself.
    """

    def __init__(self, loss: PreferenceLoss, weights: Sequence[float] = (0.7, 0.3)) -> None:
        super().__init__(loss.beta)
        if loss.num_rejected != 1:
            raise ValueError(f"{type(loss).__name__} compares {loss.num_rejected} rejected responses by itself")
        self.loss, self.weights = loss, _checked(weights)
        self.num_rejected, self.needs_reference = len(self.weights), loss.needs_reference
        self.starts_at_ln2 = loss.starts_at_ln2 and math.isclose(sum(self.weights), 1)

    def forward(self, chosen: Scored, *rejected: Scored) -> Tensor:
        """Loss of each record, (B,)."""
        losses = [weight * self.loss(chosen, each) for weight, each in zip(self.weights, rejected, strict=True)]
        return torch.stack(losses).sum(0)

    def rewards(self, scored: Scored) -> Tensor:
        """Those of the loss, (B,)."""
        rewards: Tensor = self.loss.rewards(scored)
        return rewards


class SumLoss(PreferenceLoss):
    """A weighted sum of losses; each compares the first rejected responses, as many as it wants.

    Args:
        losses: At least one; rewards are those of the first.
        weights: One for each loss.

    Raises:
        ValueError: Without a loss, another number of weights, or none of them positive.
    """

    def __init__(self, losses: list[PreferenceLoss], weights: Sequence[float]) -> None:
        if len(losses) != len(weights) or not losses:
            raise ValueError(f"give one weight for each loss, got {len(losses)} losses and {len(weights)} weights")
        super().__init__(max(loss.beta for loss in losses))
        self.losses, self.weights = nn.ModuleList(losses), _checked(weights)
        self.num_rejected = max(loss.num_rejected for loss in losses)
        self.needs_reference = any(loss.needs_reference for loss in losses)
        self.starts_at_ln2 = all(loss.starts_at_ln2 for loss in losses) and math.isclose(sum(self.weights), 1)

    @override
    def check(self, batch: Any) -> None:
        super().check(batch)
        parts: list[PreferenceLoss] = list(self.losses)  # type: ignore[arg-type]  # nn.ModuleList forgets
        for loss in parts:
            if loss.num_rejected == self.num_rejected:
                loss.check(batch)

    def forward(self, chosen: Scored, *rejected: Scored) -> Tensor:
        """Loss of each record, (B,)."""
        parts: list[PreferenceLoss] = list(self.losses)  # type: ignore[arg-type]  # nn.ModuleList forgets
        losses = [w * loss(chosen, *rejected[: loss.num_rejected]) for w, loss in zip(self.weights, parts, strict=True)]
        return torch.stack(losses).sum(0)

    def rewards(self, scored: Scored) -> Tensor:
        """Those of the first loss, (B,)."""
        first: PreferenceLoss = self.losses[0]  # type: ignore[assignment]
        return first.rewards(scored)


def _checked(weights: Sequence[float]) -> tuple[float, ...]:
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights must be >= 0 and finite, one of them above 0, got {list(weights)}")
    return tuple(weights)
