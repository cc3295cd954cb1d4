"""Conditional preference: the chosen text, rejected on a corrupted view of its video (mDPO, arXiv 2406.11839)."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from .perturbations import perturbed
from .video_prompts import units_of, view_of

Row: TypeAlias = dict[str, Any]


def corrupted(pairs: Sequence[Row], kind: str, r: int, num_frames: int, seed: int, unit: str = "frames") -> list[Row]:
    """Pairs with the chosen text on a perturbed video as their second rejected response, the first of `negatives`.

    Args:
        pairs: Overlay rows with `key` and `chosen`; a `media.frame_order` of their own is perturbed once more.
        kind: Perturbation by name or dotted path; `splice` draws the other video among those of the pairs.
        r: Divisor, from 16 (easy) to 2 (hard).
        num_frames: Frames that will be sampled from each video.
        seed: Address of the draws, together with key, kind and r.
        unit: What is perturbed: `frames`, or `clips` of two frames.

    Returns:
        New rows, in their order.

    Raises:
        NoPerturbation: If only the clean order can come out, or no other video is there where one is needed.
        ValueError: If the kind or the unit is unknown, r < 2, or a row has no chosen text, no video to corrupt, another
            number of frames, or another video in it already.
    """
    keys = list(dict.fromkeys(pair["key"] for pair in pairs))
    num_units = units_of(unit, num_frames)
    forms = [perturbed(kind, r, num_units, seed, pair["key"], keys) for pair in pairs]
    return [
        _with_negative(pair, view_of(form, unit, num_frames), num_frames)
        for pair, form in zip(pairs, forms, strict=True)
    ]


def _with_negative(pair: Row, view: Row, num_frames: int) -> Row:
    media, name = pair.get("media") or {}, pair.get("id") or pair["key"]
    if not pair.get("chosen") or media.get("video", "") is None:
        raise ValueError(f"{name} has no chosen text or no video: there is nothing to corrupt")
    if media.get("splice"):
        raise ValueError(f"{name} shows another video already; corrupt a pair that shows its own alone")
    own = media.get("frame_order") or range(len(media.get("frame_indices") or range(num_frames)))
    if len(own) != num_frames:
        raise ValueError(f"{name} shows {len(own)} frames; give --num-frames {len(own)}")
    moved = {"frame_order": [own[place] for place in view["frame_order"]]} if "frame_order" in view else {}
    negative = {"text": pair["chosen"], "media": view | moved}
    return {**pair, "negatives": [negative, *(pair.get("negatives") or [])]}
