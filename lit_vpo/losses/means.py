"""Means that are the same however an optimizer step is cut into batches, accumulated or spread over ranks.

A step is the mean over A accumulated batches (Lightning divides by A) and W ranks (DDP averages). The mean over all its
tokens is therefore not the mean of the batches' own token means: the denominator must be the same for all of them, the
*window's* count divided by A W. The loader knows it before the first backward, because the epoch's plan is a pure
function, and every training batch carries it as `window` (`lit_vpo.batch.Count`).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_vpo.batch import Count

Reduction = Literal["token", "sample"]
REDUCTIONS: tuple[Reduction, ...] = ("token", "sample")


class Mean(NamedTuple):
    """A weighted mean over a batch, in two parts, so that another size can take the denominator's place."""

    total: Tensor  # () float32, the weighted sum
    size: Tensor  # () float32, what the batch alone divides it by

    @property
    def value(self) -> Tensor:
        """Mean of the batch alone, (); 0 where nothing has weight."""
        return self.over(self.size)

    def over(self, size: Tensor | float) -> Tensor:
        """The sum divided by another size, (); a batch may hold weights of 0 alone."""
        return self.total / torch.as_tensor(size).to(self.total).clamp_min(torch.finfo(self.total.dtype).tiny)


def over_window(mean: Mean, window: Mapping[str, Count] | None, role: str, reduction: Reduction) -> Tensor:
    """The batch's share of the mean over its accumulation window; its own mean where it has no window.

    Args:
        mean: Over the batch.
        window: The batch's `window`.
        role: Whose responses it counts: `chosen` or `ground_truth`.
        reduction: What it counts.

    Returns:
        () float32; the average over the window's batches is the mean over the window.
    """
    if window is None or role not in window:  # a window without the role: this batch has none of it either
        return mean.value
    return mean.over(getattr(window[role], reduction))


def nll(sums: Tensor, lengths: Tensor, reduction: Reduction, weight: Tensor | None = None) -> Mean:
    """Negative log-likelihood of responses.

    Args:
        sums: (R,) summed logps.
        lengths: (R,) long, tokens per response.
        reduction: `token` averages over all tokens (long responses count more), `sample` over responses' own token
            means (each response counts the same).
        weight: (R,) weight of each response, 1 by default.

    Raises:
        ValueError: If the reduction is unknown.
    """
    weight = torch.ones_like(sums) if weight is None else weight.to(sums)
    if reduction == "token":
        return Mean(-(weight * sums).sum(), (weight * lengths).sum())
    if reduction == "sample":
        return Mean(-(weight * sums / lengths).sum(), weight.sum())
    raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
