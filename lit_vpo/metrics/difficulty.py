"""Pairs apart by how hard they are: share, reward accuracy and margin for each divisor r and kind of perturbation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

Group = tuple[int, str]
"""Divisor r, and kind of perturbation (empty where it is not named)."""


def group_of(record: Mapping[str, Any]) -> Group | None:
    """The group of a pair, from its `r` and `perturbation.kind`; None without r."""
    r = record.get("r")
    return None if r is None else (r, str((record.get("perturbation") or {}).get("kind") or ""))


class DifficultyMetrics(Metric):
    """Rewards of pairs by group; states are sums, so uneven batches and ranks are right.

    Args:
        groups: All that may come, the same on every rank.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor

    def __init__(self, groups: Sequence[Group]) -> None:
        super().__init__()
        divisors = sorted({r for r, _ in groups}, reverse=True)
        self.groups: list[Group] = [(r, kind) for r in divisors for kind in sorted({k for q, k in groups if q == r})]
        # pairs, pairs won, margins
        self.add_state("sums", torch.zeros(len(self.groups), 3), dist_reduce_fx="sum")

    def update(self, groups: Sequence[Group], margins: Tensor) -> None:
        """Adds pairs.

        Args:
            groups: (B,) one of each pair, of those given at first.
            margins: (B,) rewards of chosen minus those of rejected.
        """
        margins = margins.detach().float()
        values = torch.stack([torch.ones_like(margins), (margins > 0).float(), margins], dim=1)
        rows = torch.tensor([self.groups.index(group) for group in groups], dtype=torch.long, device=margins.device)
        self.sums.index_add_(0, rows, values)

    def compute(self) -> dict[str, Tensor]:
        """() float32 each, nothing before the first pair.

        Returns:
            Under `r16/` and, where kinds are named, `r16/reverse/`: `share` of all pairs, and of those that came
            `rewards/accuracies` (share whose chosen reward is higher) and `rewards/margins` (mean).
        """
        values: dict[str, Tensor] = {}
        total = self.sums[:, 0].sum()
        if not total:
            return values
        for r in dict.fromkeys(r for r, _ in self.groups):
            rows = [n for n, (other, _) in enumerate(self.groups) if other == r]
            values |= _means(f"r{r}", self.sums[rows].sum(0), total)
            for n in rows:
                if kind := self.groups[n][1]:
                    values |= _means(f"r{r}/{kind}", self.sums[n], total)
        return values


def _means(name: str, sums: Tensor, total: Tensor) -> dict[str, Tensor]:
    pairs, won, margin = sums.unbind()
    means = {"share": pairs / total}
    if pairs:
        means |= {"rewards/accuracies": won / pairs, "rewards/margins": margin / pairs}
    return {f"{name}/{what}": value for what, value in means.items()}
