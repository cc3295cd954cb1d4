"""The shared row: `[video + prompt | response 1 | ... | response K]`, several of them packed into one sequence.

Rows of one video begin with the same tokens. These are the trunk, computed once; what follows are branches, each of
which attends to the trunk and to itself, at the positions it would have in a row of its own. Keys and values of the
trunk do not depend on what follows (causal attention), so log-probabilities and gradients are those of separate rows.
Prefix sharing for pairs is what `flash-preference` does for text; proof in small: `dpo_step.md` 3.3 of the design.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from lit_vpo.batch import IGNORE

ATTENTION = "lit_vpo_shared_prefix"


class Segment(NamedTuple):
    """One trunk with its branches, contiguous in the packed sequence."""

    trunk: int  # tokens
    branches: tuple[int, ...]  # tokens of each


@dataclass(frozen=True)
class Packing:
    """Where every token of R rows stands in the packed sequence of N tokens."""

    segments: tuple[Segment, ...]
    source: Tensor  # (N,) long: position in the flattened (R, S) rows that the token is read from
    where: Tensor  # (R, S) long: packed position of every token; rows of a group share those of their trunk
    leaders: Tensor  # (G,) long: the first row of every group, in order


def pack(rows: Any, video_token: int) -> Packing:
    """Find what rows have in common.

    Rows that look at the same video after the same words form a group, and so do rows of text alone that have the same
    prompt. A trunk is their longest common prefix, at most a prompt: a response is never shared.

    Args:
        rows: Right-padded rows with labels (`lit_vpo.batch.Rows`).
        video_token: What stands in the place of a video's features.
    """
    ids, labels, mask = rows["input_ids"], rows["labels"], rows["attention_mask"]
    prompts = (labels != IGNORE).long().argmax(1).tolist()
    lengths = mask.sum(1).tolist()
    source: list[Tensor] = []
    where = torch.zeros_like(ids)
    segments: list[Segment] = []
    width, done = ids.shape[1], 0
    columns = torch.arange(width, device=ids.device)
    groups = _groups(rows, prompts, video_token)
    for group in groups:
        trunk = _common(ids[group], min(prompts[row] for row in group))
        source.append(group[0] * width + columns[:trunk])
        where[group, :trunk] = done + columns[:trunk]
        done += trunk
        for row in group:
            tail = columns[trunk : lengths[row]]
            source.append(row * width + tail)
            where[row, trunk : lengths[row]] = done - trunk + tail
            done += len(tail)
        segments.append(Segment(trunk, tuple(lengths[row] - trunk for row in group)))
    leaders = torch.tensor([group[0] for group in groups], device=ids.device)
    return Packing(tuple(segments), torch.cat(source), where, leaders)


def _groups(rows: Any, prompts: list[int], video_token: int) -> list[list[int]]:
    ids = rows["input_ids"]
    starts = (ids == video_token).long().argmax(1).tolist()
    groups: dict[object, list[int]] = {}
    for row, video in enumerate(rows["video_index"].tolist()):
        words = ids[row, : starts[row] if video >= 0 else prompts[row]]
        groups.setdefault((video, *words.tolist()), []).append(row)
    return list(groups.values())


def _common(ids: Tensor, most: int) -> int:
    """Length of the longest common prefix of rows (K, S), at most `most`."""
    return int((ids[:, :most] == ids[:1, :most]).all(0).long().cumprod(0).sum())


def packed_positions(packing: Packing, leaders: Tensor) -> Tensor:
    """Positions of the packed tokens: each branch goes on where the trunk ends.

    Args:
        packing: From `pack`.
        leaders: (..., G, S) long, positions of the leading row of every group; media stand in trunks only, so a branch
            counts on from its first token by ones, in every dimension of the positions.

    Returns:
        (..., 1, N) long.
    """
    parts = []
    for index, (trunk, branches) in enumerate(packing.segments):
        parts.append(leaders[..., index, :trunk])
        start = leaders[..., index, trunk : trunk + 1]
        parts += [start + torch.arange(length, device=leaders.device) for length in branches]
    return torch.cat(parts, -1).unsqueeze(-2)


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    segments: tuple[Segment, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed sequence, without an N x N mask; ordinary rows (no `segments`) go to plain SDPA.

    Args:
        module: The attention layer.
        query: (1, heads, N, width)
        key: (1, key-value heads, N, width)
        value: As key.
        attention_mask: Of ordinary rows.
        scaling: Of the scores.
        segments: From `pack`.
        kwargs: What transformers passes on.

    Returns:
        (1, N, heads, width), and None in place of weights.
    """
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    settings: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    # split, never slice: the gradient of each slice would be a tensor as long as the whole sequence
    lengths = [length for trunk, branches in segments for length in (trunk, *branches)]
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotary embedding leaves them in fp32
    parts = iter(zip(*(torch.split(x, lengths, 2) for x in (query, key, value)), strict=True))
    outputs = []
    for _, branches in segments:
        (q, k, v), first = next(parts), next(parts)  # trunk and first branch are one causal sequence
        queries, keys, values = (torch.cat(pair, 2) for pair in zip((q, k, v), first, strict=True))
        outputs.append(F.scaled_dot_product_attention(queries, keys, values, is_causal=True, **settings))
        for length in branches[1:]:
            own, own_k, own_v = next(parts)
            mask: Any = causal_lower_right(length, k.shape[2] + length)
            keys, values = torch.cat([k, own_k], 2), torch.cat([v, own_v], 2)
            outputs.append(F.scaled_dot_product_attention(own, keys, values, attn_mask=mask, **settings))
    return torch.cat([output.transpose(1, 2) for output in outputs], 1), None


def _mask(**kwargs: Any) -> Tensor | None:
    """A packed sequence comes without a padding mask and needs none; ordinary rows get SDPA's."""
    from transformers.masking_utils import sdpa_mask

    return None if kwargs.get("attention_mask") is None else sdpa_mask(**kwargs)


def register_attention() -> None:
    """Make the attention known to transformers under the name ATTENTION."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, shared_prefix_attention)
    AttentionMaskInterface.register(ATTENTION, _mask)


def why_not_shared(net: Any) -> str | None:
    """Why a network cannot compute shared rows; None if it can.

    Args:
        net: A plain network, without adapter wrapper.
    """
    config = net.config.get_text_config()
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "its layers are not all of full attention (a sliding window or a linear layer sees the packed order)"
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        return "its experts are balanced over the tokens of a batch, which sharing would change"
    # Mistral has a window and no switch; Qwen2 has both, and the window stays written where it is off
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "it attends in a sliding window"
    if not net._supports_attention_backend:
        return f"{type(net).__name__} takes no attention function of others"
    return None
