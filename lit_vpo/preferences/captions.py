"""Captions that a policy wrote, as records to learn from: what rebirth tuning is fed with."""

from collections.abc import Sequence
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def caption_records(generations: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Instruction records whose ground truth is what the policy said.

    Args:
        generations: Rows of `predict`: a prompt's record with `response`, `finished` and `model`.

    Returns:
        Overlay rows for SFT, and rows left out: {id, key, reason}, the reason `unfinished` (cut at the token limit) or
        `empty`.
    """
    kept: list[Row] = []
    dropped: list[Row] = []
    for row in generations:
        reason = "empty" if not row["response"].strip() else None if row["finished"] else "unfinished"
        if reason is not None:
            dropped.append({"id": row["id"], "key": row["key"], "reason": reason})
            continue
        own = {name: row[name] for name in ("key", "id", "prompt", "history", "media") if row.get(name)}
        meta = {**row.get("meta", {}), "model": row.get("model"), "replaced": row.get("ground_truth")}
        kept.append(own | {"ground_truth": row["response"].strip(), "mode": "sft", "meta": meta})
    return kept, dropped
