"""What a worker does with a video of the selection: one pass over its frames, and pictures of its usable shots."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_vpo.datamodules.container import Limits
from lit_vpo.datamodules.manifest import Sample
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.reader import read_member
from lit_vpo.datamodules.small_frames import frames_at, small_frames
from lit_vpo.datamodules.stores import LocalStore
from lit_vpo.preferences.selection import Scan, middles, select_shots
from lit_vpo.preferences.selection_rules import NotSelected, SelectionRules
from lit_vpo.preferences.sharpness import clarity
from lit_vpo.preferences.shot_detectors import ContentDetector, ShotDetector, TransNetDetector
from lit_vpo.preferences.shots import FrameStats, Shot

# short side in pixels of what detector, gray levels and clarity look at, and of what the vision encoder is given
SCAN_SIDE, PICTURE_SIDE = 256, 448
# a pass over a whole video takes longer than a clip of it
LIMITS = Limits(seconds=1800.0)


class Scanned(NamedTuple):
    """What becomes of a video in a worker: pictures and clarities, or the reason why it is dropped."""

    key: str
    shots: list[Shot]
    pictures: Any = None  # (N, H, W, 3) uint8 RGB, the middle of each shot
    clarities: Any = None  # (num_frames,) float32
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Scanner:
    """Scans videos of a folder; small, so that it travels to workers.

    Attributes:
        folder: Of the manifest.
        rules: The numbers.
        threshold: Of the shot detector; None takes the detector's own.
        transnet: File of TransNetV2's weights; None detects with PySceneDetect.
    """

    folder: Path
    rules: SelectionRules
    threshold: float | None = None
    transnet: str | None = None

    def detector(self) -> ShotDetector:
        """The shot detector, made once in a process.

        Raises:
            ValueError: What it needs is not installed, or its numbers are out of range.
        """
        return _detector(self.transnet, self.threshold, self.rules.min_shot_frames)

    def __call__(self, sample: Sample) -> Scanned:
        """Scans a video; one that cannot be read is dropped as `unreadable`."""
        shots: list[Shot] = []
        try:
            video = read_member(LocalStore(self.folder), sample, sample.video_extension)
            scan = self._scan(video, sample)
            shots = list(scan.shots)
            usable = select_shots(scan, self.rules)
            pictures = frames_at(video, middles(usable), PICTURE_SIDE, LIMITS)
        except BadSample as error:
            return Scanned(sample.key, shots, reason="unreadable", detail=str(error))
        except NotSelected as refusal:
            return Scanned(sample.key, shots, reason=refusal.reason, detail=refusal.detail)
        return Scanned(sample.key, usable, pictures, scan.frames.clarity)

    def _scan(self, video: bytes, sample: Sample) -> Scan:
        stats = list[tuple[int, int, float]]()
        frames = _noted(small_frames(video, SCAN_SIDE, LIMITS), stats)
        shots = self.detector().shots(frames, sample.fps)
        if len(stats) < sample.num_frames:
            raise BadSample(f"the video is truncated: {len(stats)} of {sample.num_frames} frames decode")
        darkest, brightest, clarities = zip(*stats, strict=True)
        numbers = np.array(darkest), np.array(brightest), np.array(clarities, np.float32)
        return Scan(shots, FrameStats(*numbers), sample.fps)


def _noted(frames: Iterable[Any], stats: list[tuple[int, int, float]]) -> Iterator[Any]:
    """The same frames; their numbers are added to `stats` as they go by, so that none is decoded twice."""
    import cv2

    for frame in frames:
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        stats.append((int(gray.min()), int(gray.max()), clarity(gray)))
        yield frame


@functools.cache
def _detector(transnet: str | None, threshold: float | None, min_shot_frames: int) -> ShotDetector:
    own = {} if threshold is None else {"threshold": threshold}
    if transnet is not None:
        return TransNetDetector(transnet, **own)
    return ContentDetector(min_shot_frames=min_shot_frames, **own)
