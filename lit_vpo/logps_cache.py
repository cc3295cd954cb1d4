"""Log-probabilities under the reference, kept on disk: the first pass over the data computes them, no later one does.

Keyed by content: the reference's weights, the frames as they are shown (so a perturbation is part of the key), every
token of prompt and response. Another round's overlay therefore finds the pairs that it shares with the last one, and a
refreshed reference finds nothing.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch

from lit_vpo.batch import IGNORE
from lit_vpo.losses import Logps, summed
from lit_vpo.store import TensorStore

TOKENS = "logps"


class LogpsCache:
    """Log-probabilities of rows under one reference.

    Args:
        folder: Of the cache; what it holds of other references is removed.
        reference_hash: Of the reference's weights.
        number_format: What they are computed in.

    Raises:
        ValueError: From `TensorStore`.
    """

    def __init__(self, folder: str, reference_hash: str, number_format: str) -> None:
        self.store = TensorStore(folder, f"{reference_hash[:16]}-{number_format}")
        self.store.drop_other_namespaces()

    def logps(self, batch: Any, compute: Callable[[], Logps]) -> Logps:
        """Of a batch's rows: read where all of them are known, else computed and kept.

        Args:
            batch: Rows with labels and `video_keys`.
            compute: Scores the batch under the reference.
        """
        keys = row_keys(batch)
        known = [self.store.get(key) for key in keys]
        found = [tensors[TOKENS] for tensors in known if tensors is not None]
        if len(found) == len(keys):
            lengths = torch.tensor([len(tokens) for tokens in found])
            device = batch["labels"].device
            return summed(torch.cat(found).to(device), lengths.to(device))
        logps = compute()
        for key, tokens in zip(keys, torch.split(logps.tokens, logps.lengths.tolist()), strict=True):
            self.store.put(key, {TOKENS: tokens})
        return logps


def row_keys(batch: Any) -> list[str]:
    """A key of the content of every row: its video, its tokens, and where its response begins."""
    rows = zip(*(batch[name].tolist() for name in ("input_ids", "labels", "video_index")), strict=True)
    keys = []
    for (ids, labels, video), length in zip(rows, batch["attention_mask"].sum(1).tolist(), strict=True):
        seen = batch["video_keys"][video] if video >= 0 else ""
        content = json.dumps([seen, ids[:length], [label != IGNORE for label in labels[:length]].index(True)])
        keys.append(hashlib.blake2b(content.encode(), digest_size=16).hexdigest())
    return keys
