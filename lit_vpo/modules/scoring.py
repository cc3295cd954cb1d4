"""Rows to log-probabilities of their responses: packed rows that share what they begin with, or separate ones."""

from typing import Any

from torch import Tensor

from lit_vpo.losses import Logps, response_mask, sequence_logps
from lit_vpo.models import Family
from lit_vpo.models.registry import video_token
from lit_vpo.models.shared_prefix import pack, packed_positions
from lit_vpo.modules.generation import PER_TOKEN

Features = list[Tensor]


def score(net: Any, family: Family, batch: Any, features: Features, shared: bool) -> Logps:
    """Log-probabilities of every row's response; only its positions reach the output head.

    Args:
        net: A plain network (an adapter inside it works).
        family: Its family.
        batch: Rows with labels (`lit_vpo.batch.Rows`).
        features: Of the batch's videos, from `Family.encode`.
        shared: Whether prompt and video are computed once for all responses to them.
    """
    hidden = (shared_hidden if shared else row_hidden)(net, family, batch, features)
    return sequence_logps(hidden, net.get_output_embeddings(), batch["labels"])


def video_inputs(family: Family, batch: Any, features: Features) -> dict[str, Any]:
    """Keyword arguments of the network: tokens, and the encoded videos in the place of pixels."""
    text = {k: batch[k] for k in PER_TOKEN if k in batch}
    seen = batch["video_index"][batch["video_index"] >= 0]
    return text | (family.video_kwargs(features, seen, batch["media"]) if len(seen) else {})


def row_hidden(net: Any, family: Family, batch: Any, features: Features) -> Tensor:
    """States that predict the response tokens, every row on its own: (N, hidden)."""
    return family.hidden(net, video_inputs(family, batch, features))[response_mask(batch["labels"])]


def shared_hidden(net: Any, family: Family, batch: Any, features: Features) -> Tensor:
    """The same from packed rows: (N, hidden)."""
    packing = pack(batch, video_token(net.config))
    videos = batch["video_index"][packing.leaders]
    leaders = {name: batch[name][packing.leaders] for name in PER_TOKEN if name in batch}
    media = family.video_kwargs(features, videos[videos >= 0], batch["media"]) if batch["media"] else {}
    positions = family.position_ids(net, leaders | media)
    packed = {name: batch[name].flatten()[packing.source][None] for name in PER_TOKEN if name in batch}
    del packed["attention_mask"]  # nothing is padded
    inputs = packed | media | {"position_ids": packed_positions(packing, positions), "segments": packing.segments}
    return family.hidden(net, inputs)[0, packing.where[response_mask(batch["labels"])]]
