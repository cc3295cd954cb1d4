"""Conditional preference: the chosen text, rejected on a corrupted view of its video (mDPO, arXiv 2406.11839)."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from .perturbations import frame_order

Row: TypeAlias = dict[str, Any]


def corrupted(pairs: Iterable[Row], kind: str, r: int, num_frames: int, seed: int) -> list[Row]:
    """Pairs with the chosen text on a perturbed video as their second rejected response, the first of `negatives`.

    Args:
        pairs: Overlay rows with `key` and `chosen`; a `media.frame_order` of their own is perturbed once more.
        kind: Perturbation by name or dotted path.
        r: Divisor, from 16 (easy) to 2 (hard).
        num_frames: Frames that will be sampled from each video.
        seed: Address of the draws, together with key, kind and r.

    Returns:
        New rows, in their order.

    Raises:
        NoPerturbation: If only the clean order can come out.
        ValueError: If the kind is unknown, r < 2, or a row has no chosen text or no video to corrupt.
    """
    return [_with_negative(pair, frame_order(kind, r, num_frames, seed, pair["key"])) for pair in pairs]


def _with_negative(pair: Row, order: list[int]) -> Row:
    media = pair.get("media") or {}
    if not pair.get("chosen") or media.get("video", "") is None:
        raise ValueError(f"{pair.get('id') or pair['key']} has no chosen text or no video: there is nothing to corrupt")
    own = media.get("frame_order") or range(len(order))
    if len(own) != len(order):
        raise ValueError(f"{pair.get('id') or pair['key']} shows {len(own)} frames; give --num-frames {len(own)}")
    negative = {"text": pair["chosen"], "media": {"frame_order": [own[position] for position in order]}}
    return {**pair, "negatives": [negative, *(pair.get("negatives") or [])]}
