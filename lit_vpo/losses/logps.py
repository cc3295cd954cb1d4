"""From hidden states to log-probabilities of response tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_vpo.batch import IGNORE


class Logps(NamedTuple):
    """Log-probabilities of the response tokens of R rows, N tokens in all, row after row."""

    tokens: Tensor  # (N,) float32
    rows: Tensor  # (N,) long, the row of each token, ascending
    sums: Tensor  # (R,) float32, summed per row
    lengths: Tensor  # (R,) long, tokens per row

    @property
    def means(self) -> Tensor:
        """(R,) float32, averaged per row."""
        return self.sums / self.lengths


def blocks(logps: Logps, size: int) -> list[Logps]:
    """Cut rows into blocks (the roles of a batch of pairs), each with rows counted from 0.

    Args:
        logps: Of R rows.
        size: Rows of a block; divides R.
    """
    tokens = logps.lengths.view(-1, size).sum(1).tolist()
    parts = zip(
        torch.split(logps.tokens, tokens),
        torch.split(logps.rows, tokens),
        torch.split(logps.sums, size),
        torch.split(logps.lengths, size),
        strict=True,
    )
    return [Logps(each, rows - n * size, sums, lengths) for n, (each, rows, sums, lengths) in enumerate(parts)]


def summed(tokens: Tensor, lengths: Tensor) -> Logps:
    """Log-probabilities of rows from those of their tokens.

    Args:
        tokens: (N,) float32, row after row.
        lengths: (R,) long, tokens per row, N in all.
    """
    rows = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    return Logps(tokens, rows, tokens.new_zeros(len(lengths)).index_add(0, rows, tokens), lengths)


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
    """Log-probabilities of the responses, per token and summed per row.

    Logits live for one chunk at a time; in the backward pass they are computed again.

    Args:
        hidden: (N, hidden) states at the N positions of `response_mask(labels)`.
        head: From states to logits (n, V).
        labels: (R, S) long, IGNORE outside responses.
        chunk: Positions whose logits live at once.

    Raises:
        ValueError: If a row has no response token.
    """
    mask = response_mask(labels)
    lengths = mask.sum(1)
    if not lengths.all():
        without = (lengths == 0).nonzero()[:, 0].tolist()
        raise ValueError(f"rows {without} of the batch have no response token; every response needs at least one")
    targets = labels.roll(-1, dims=1)[mask]

    def logps(states: Tensor, wanted: Tensor) -> Tensor:
        return token_logps(head(states), wanted)

    pieces = list(zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True))
    if len(pieces) > 1:
        tokens = torch.cat([checkpoint(logps, *piece, use_reentrant=False) for piece in pieces])
    else:
        tokens = logps(*pieces[0])
    return summed(tokens, lengths)
