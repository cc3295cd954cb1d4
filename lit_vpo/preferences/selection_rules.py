"""The numbers by which videos are selected (TEMPO, arXiv 2503.16929, its released pipeline's steps S1 to S6)."""

from dataclasses import dataclass, field
from typing import Any


def _number(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class SelectionRules:
    """What a shot, a video and a group must be; the defaults are those of the released pipeline.

    Each field's meaning stands in its metadata as `help`, from where the command line takes it.

    Raises:
        ValueError: Numbers out of range.
    """

    min_shot_frames: int = _number(8, "leave out shorter shots, in frames (S1)")
    min_shot_s: float = _number(0.2, "leave out shorter shots, in seconds (S1)")
    min_gray_range: int = _number(10, "leave out flat shots: brightest minus darkest gray level, 0..255 (S1)")
    min_shots: int = _number(4, "drop videos of fewer shots (S2)")
    max_shots: int = _number(32, "drop videos of more shots (S2)")
    max_shot_s: float = _number(16.0, "drop videos with a longer shot, in seconds (S2)")
    merge_above: float = _number(
        0.8,
        "shots more similar than this (cosine) form a group (S4); the value is SigLIP's, other encoders need theirs",
    )
    min_merged_groups: int = _number(4, "drop videos of fewer merged groups (S5)")
    max_occurrences: int = _number(3, "drop videos in which a group occurs more often (S5)")
    occurrence_share: int = _number(3, "drop videos in which a group is more than 1/N of the merged groups (S5)")

    def __post_init__(self) -> None:
        if self.min_shot_frames < 3:
            raise ValueError(f"a shot gives two frames of its inside; min_shot_frames >= 3, got {self.min_shot_frames}")
        if not 0 <= self.min_shot_s <= self.max_shot_s:
            raise ValueError(f"need 0 <= min_shot_s <= max_shot_s, got {self.min_shot_s} and {self.max_shot_s}")
        if not 1 <= self.min_shots <= self.max_shots:
            raise ValueError(f"need 1 <= min_shots <= max_shots, got {self.min_shots} and {self.max_shots}")
        if not 0 <= self.min_gray_range <= 256 or not -1 <= self.merge_above <= 1:
            raise ValueError(
                "need min_gray_range in 0..256 and merge_above in -1..1 (a cosine), "
                f"got {self.min_gray_range} and {self.merge_above}"
            )
        if min(self.min_merged_groups, self.max_occurrences, self.occurrence_share) < 1:
            raise ValueError(f"min_merged_groups, max_occurrences and occurrence_share must be >= 1: {self}")


class NotSelected(Exception):
    """A rule drops the video; not an error.

    Args:
        reason: Short name that is counted, such as `few_shots`.
        detail: The numbers behind it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
