"""Which shots of a video are usable, and which videos their shots make usable (TEMPO's S1 and S2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from .selection_rules import NotSelected, SelectionRules

Shot: TypeAlias = tuple[int, int]
"""First frame, and the frame after the last."""


@dataclass(frozen=True)
class FrameStats:
    """Numbers of a video's N frames in order.

    Attributes:
        darkest: (N,) uint8, the least gray level of each.
        brightest: (N,) uint8, the greatest.
        clarity: (N,) float64, how sharp each is (`sharpness.clarity`).
    """

    darkest: npt.NDArray[Any]
    brightest: npt.NDArray[Any]
    clarity: npt.NDArray[Any]


def usable_shots(shots: Sequence[Shot], frames: FrameStats, fps: float, rules: SelectionRules) -> list[Shot]:
    """Shots that are neither too short nor flat (S1).

    Args:
        shots: In time order.
        frames: Of the whole video.
        fps: Frames per second.
        rules: The numbers.
    """
    return [shot for shot in shots if not is_short(shot, fps, rules) and not is_flat(shot, frames, rules)]


def is_short(shot: Shot, fps: float, rules: SelectionRules) -> bool:
    """Whether a shot is shorter than `min_shot_frames` frames or `min_shot_s` seconds."""
    length = shot[1] - shot[0]
    return length < rules.min_shot_frames or length < rules.min_shot_s * fps


def is_flat(shot: Shot, frames: FrameStats, rules: SelectionRules) -> bool:
    """Whether all gray levels of a shot lie within `min_gray_range`: black, white or any other single tone."""
    inside = slice(*shot)
    return int(frames.brightest[inside].max()) - int(frames.darkest[inside].min()) < rules.min_gray_range


def check_shots(shots: Sequence[Shot], fps: float, rules: SelectionRules) -> None:
    """The rule for a video by its usable shots (S2).

    Args:
        shots: Usable ones.
        fps: Frames per second.
        rules: The numbers.

    Raises:
        NotSelected: `few_shots`, `many_shots` or `long_shot`.
    """
    if len(shots) < rules.min_shots:
        raise NotSelected("few_shots", f"{len(shots)} usable shots, at least {rules.min_shots} are needed")
    if len(shots) > rules.max_shots:
        raise NotSelected("many_shots", f"{len(shots)} usable shots, at most {rules.max_shots} are taken")
    longest = max(end - start for start, end in shots)
    if longest > rules.max_shot_s * fps:
        raise NotSelected("long_shot", f"a shot of {longest / fps:.1f} s, at most {rules.max_shot_s:g} s are taken")
