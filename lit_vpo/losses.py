"""The equations, as pure functions of tensors, and the loss that YAML names.

Equation numbers (T1) and (T2): DPO with summed log-probabilities, Rafailov et al. (arXiv 2305.18290, eq. 7), as the
released recipe of TEMPLE uses it.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_vpo.batch import IGNORE

Reduction = Literal["token", "sample"]
REDUCTIONS: tuple[Reduction, ...] = ("token", "sample")


class Logps(NamedTuple):
    """Log-probabilities of the response tokens of R rows, N tokens in all, row after row."""

    tokens: Tensor  # (N,) float32
    rows: Tensor  # (N,) long, the row of each token, ascending
    sums: Tensor  # (R,) float32, summed per row
    lengths: Tensor  # (R,) long, tokens per row


def response_mask(labels: Tensor) -> Tensor:
    """Positions whose next token is part of a response.

    Args:
        labels: (R, S) long, IGNORE outside responses.

    Returns:
        (R, S) bool; its positions read off the logits in the order of `labels[:, 1:][labels[:, 1:] != IGNORE]`.
    """
    return F.pad(labels[:, 1:] != IGNORE, (0, 1))


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax of the label's logit, in fp32.

    Args:
        logits: (..., V), any float dtype.
        labels: (...) long, without IGNORE.

    Returns:
        (...) float32.
    """
    return -F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)


def sequence_logps(hidden: Tensor, head: Callable[[Tensor], Tensor], labels: Tensor, chunk: int = 2048) -> Logps:
    """Log-probabilities of the responses, per token and summed per row (never averaged: DPO is defined on sums).

    Logits live for one chunk at a time; in the backward pass they are computed again.

    Args:
        hidden: (N, hidden) states at the N positions of `response_mask(labels)`.
        head: From states to logits (n, V).
        labels: (R, S) long, IGNORE outside responses.
        chunk: Positions whose logits live at once.
    """
    mask = response_mask(labels)
    rows = mask.nonzero()[:, 0]
    targets = labels.roll(-1, dims=1)[mask]

    def logps(states: Tensor, wanted: Tensor) -> Tensor:
        return token_logps(head(states), wanted)

    pieces = list(zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True))
    if len(pieces) > 1:
        tokens = torch.cat([checkpoint(logps, *piece, use_reentrant=False) for piece in pieces])
    else:
        tokens = logps(*pieces[0])
    sums = torch.zeros(len(labels), device=tokens.device).index_add(0, rows, tokens)
    return Logps(tokens, rows, sums, mask.sum(1))


def dpo_margins(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """D of (T1): the implicit reward of chosen over rejected.

    Args:
        policy_chosen: (B,) summed logps under the policy.
        policy_rejected: (B,)
        reference_chosen: (B,) summed logps under the reference.
        reference_rejected: (B,)
        beta: Scale of the implicit reward.

    Returns:
        (B,)
    """
    # (T1) D = beta {[s(y_w) - s_ref(y_w)] - [s(y_l) - s_ref(y_l)]}
    return beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))


def dpo_loss(margins: Tensor) -> Tensor:
    """The sigmoid loss of (T2), per pair.

    Args:
        margins: (B,) from `dpo_margins`.

    Returns:
        (B,)
    """
    return -F.logsigmoid(margins)  # (T2) L = -log sigma(D)


def nll(sums: Tensor, lengths: Tensor, reduction: Reduction, weight: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of responses.

    Args:
        sums: (R,) summed logps.
        lengths: (R,) long, tokens per response.
        reduction: `token` averages over all tokens of the batch (long responses count more), `sample` over responses'
            own token means (each response counts the same).
        weight: (R,) weight of each response, 1 by default. Where all are 0 the loss is 0.

    Returns:
        () float.

    Raises:
        ValueError: If the reduction is unknown.
    """
    weight = torch.ones_like(sums) if weight is None else weight.to(sums)
    tiny = torch.finfo(sums.dtype).tiny  # a batch may hold weights of 0 alone
    if reduction == "token":
        return -(weight * sums).sum() / (weight * lengths).sum().clamp_min(tiny)
    if reduction == "sample":
        return -(weight * sums / lengths).sum() / weight.sum().clamp_min(tiny)
    raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


class DPOLoss(nn.Module):
    """Sigmoid DPO on summed log-probabilities.

    A loss of one's own is a subclass, or any module with `beta` and this `forward`, named by its dotted path.

    Args:
        beta: Scale of the implicit reward; larger keeps the policy closer to the reference.

    Raises:
        ValueError: If beta is not positive.
    """

    starts_at_ln2 = True  # the step-0 guard: equal policy and reference give ln 2

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"beta must be > 0, got {beta}")
        self.beta = beta

    def forward(
        self, policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
    ) -> Tensor:
        """Loss of each pair.

        Args:
            policy_chosen: (B,) summed logps under the policy.
            policy_rejected: (B,)
            reference_chosen: (B,) summed logps under the reference.
            reference_rejected: (B,)

        Returns:
            (B,)
        """
        return dpo_loss(dpo_margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected, self.beta))
