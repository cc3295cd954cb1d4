"""One video's way through the selection (TEMPO's S1 to S6): from its shots to two frames of each merged group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .grouping import check_groups, merge_items, merged_groups
from .selection_rules import NotSelected, SelectionRules
from .sharpness import sharpest_pair
from .shots import FrameStats, Shot, check_shots, is_flat, is_short, usable_shots

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """What one pass over a video's frames tells.

    Attributes:
        shots: As detected, in time order.
        frames: Numbers of each frame.
        fps: Frames per second.
    """

    shots: Sequence[Shot]
    frames: FrameStats
    fps: float


def select_shots(scan: Scan, rules: SelectionRules) -> list[Shot]:
    """The usable shots of a video that has the right number of them (S1, S2).

    Raises:
        NotSelected: `few_shots`, `many_shots` or `long_shot`; the detail also counts what is unusable.
    """
    usable = usable_shots(scan.shots, scan.frames, scan.fps, rules)
    try:
        check_shots(usable, scan.fps, rules)
    except NotSelected as refusal:
        short = sum(is_short(shot, scan.fps, rules) for shot in scan.shots)
        flat = sum(is_flat(shot, scan.frames, rules) for shot in scan.shots)
        found = f"{len(scan.shots)} found, {short} of them short, {flat} flat"
        raise NotSelected(refusal.reason, f"{refusal.detail} ({found})") from None
    return usable


def middles(shots: Sequence[Shot]) -> list[int]:
    """The frame in the middle of each shot, by which shots are compared (S3)."""
    return [(start + end) // 2 for start, end in shots]


def select_frames(
    shots: Sequence[Shot], features: Tensor, clarities: npt.NDArray[Any], rules: SelectionRules
) -> dict[str, Any]:
    """Groups and frames of a video whose shots are usable (S3 to S6).

    Args:
        shots: N usable ones.
        features: (N, dim) float, L2-normalised, of the shots' middle frames.
        clarities: (num_frames,) float, of all of the video's frames.
        rules: The numbers.

    Returns:
        `groups` (shot numbers), `merged_groups` ([group, shot numbers] in time order) and `frame_indices` (two frame
        numbers for each of the merged groups).

    Raises:
        NotSelected: `few_groups` or `repetitive`; the detail also says how similar the shots are.
    """
    similarity = (features.double() @ features.double().T).cpu().numpy()
    groups = merge_items(similarity, rules.merge_above)
    merged = merged_groups(groups)
    try:
        check_groups(merged, rules)
    except NotSelected as refusal:
        raise NotSelected(refusal.reason, f"{refusal.detail} ({_spread(similarity)})") from None
    spans = [(shots[inside[0]][0], shots[inside[-1]][1]) for _, inside in merged]
    frame_indices = [sharpest_pair(clarities, span) for span in spans]
    return {"groups": groups, "merged_groups": [[*each] for each in merged], "frame_indices": frame_indices}


def _spread(similarity: npt.NDArray[Any]) -> str:
    pairs = similarity[np.triu_indices(len(similarity), 1)]
    if not pairs.size:
        return "one shot"
    low, middle, high = np.quantile(pairs, (0, 0.5, 1))
    return f"similarity of two shots: {low:.2f} to {high:.2f}, median {middle:.2f}"
