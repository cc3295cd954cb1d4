"""What a loss is given, and what it says about itself."""

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from lit_vpo.losses.equations import dpo_margins
from lit_vpo.losses.logps import Logps


class Scored(NamedTuple):
    """One role of B pairs: a response to each prompt, under the policy and under the reference."""

    policy: Logps  # B rows
    reference: Logps | None  # B rows; None where no loss needs it

    @property
    def logratios(self) -> Tensor:
        """(B,) float32: summed logps of the policy minus those of the reference."""
        assert self.reference is not None, "a loss without needs_reference asks for the reference"
        return self.policy.sums - self.reference.sums

    @property
    def mean_logratios(self) -> Tensor:
        """(B,) float32: `logratios` averaged over the response's tokens."""
        return self.logratios / self.policy.lengths


class PreferenceLoss(nn.Module):
    """A loss of pairs, named in YAML; a loss of one's own is a subclass, named by its dotted path.

    A subclass has `forward(chosen: Scored, *rejected: Scored) -> (B,)` with as many rejected roles as `num_rejected`.

    Args:
        beta: Scale of the implicit reward; larger keeps the policy closer to the reference.

    Raises:
        ValueError: If beta is not positive.
    """

    needs_reference: bool = True  # else the reference never runs, and nothing is compared with it
    starts_at_ln2: bool = False  # guarded at step 0: equal policy and reference give ln 2
    num_rejected: int = 1  # roles after chosen; the batch must have them

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be > 0, got {beta}")
        self.beta = beta

    def check(self, batch: Any) -> None:
        """Refuse a batch whose roles are not those that this loss compares.

        Args:
            batch: B records, roles in blocks (`lit_vpo.batch.PreferenceBatch`).

        Raises:
            ValueError: If they are not.
        """
        num_rejected = len(batch["labels"]) // len(batch["records"]) - batch["has_ground_truth"] - 1
        if num_rejected != self.num_rejected:
            raise ValueError(
                f"{type(self).__name__} compares chosen with {self.num_rejected} rejected responses, the batch has "
                f"{num_rejected}: set data.num_negatives: {self.num_rejected}"
            )

    def rewards(self, scored: Scored) -> Tensor:
        """Implicit reward of a role's responses, for the metrics: (B,)."""
        return self.beta * scored.logratios

    def margins(self, chosen: Scored, rejected: Scored) -> Tensor:
        """D of DPO: (B,)."""
        return dpo_margins(chosen.logratios, rejected.logratios, self.beta)


def check_range(name: str, value: float, low: float, high: float, below: bool = False) -> float:
    """A number in [low, high], or in [low, high) with `below`.

    Raises:
        ValueError: If it lies outside, or is not a number.
    """
    if not (low <= value < high if below else low <= value <= high):
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}{')' if below else ']'}, got {value}")
    return value
