"""A whole video in small pictures, one after the other, and single frames of it by number."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from av.video.reformatter import VideoReformatter

from .container import Clock, Limits, frame_index, open_media, video_stream
from .frames import Request, pictures_of
from .quarantine import BadSample
from .sampling import fitted


def small_frames(source: bytes | Path, side: int, limits: Limits | None = None) -> Iterator[Any]:
    """All frames in the order they are shown, resized inside the decoder; one is in memory at a time.

    Args:
        source: The file's bytes, or its path.
        side: Short side in pixels; smaller videos keep their size.
        limits: What decoding may cost; None takes the defaults.

    Yields:
        (H, W, 3) uint8 BGR, the order that OpenCV expects.

    Raises:
        BadSample: The video does not open, a frame does not decode or is damaged, the picture size changes, or a limit
            is passed.

    """
    limits = limits or Limits()
    clock, scaler, converter, size = Clock(limits.seconds), VideoReformatter(), VideoReformatter(), None
    with open_media(source) as container:
        stream = video_stream(container, limits)
        for number, frame in enumerate(clock.watch(container.decode(stream))):
            if frame.is_corrupt:
                raise BadSample(f"frame {number} is damaged")
            if size not in (None, (frame.height, frame.width)):
                raise BadSample("the video changes its picture size on the way")
            size = frame.height, frame.width
            height, width = fitted(*size, min(side, *size), None)
            # resized before it becomes RGB: AREA and RGB in one step would leave FFmpeg's fast path
            small = scaler.reformat(frame, width, height, interpolation="AREA")
            yield converter.reformat(small, format="bgr24", interpolation="BILINEAR").to_ndarray()


def frames_at(source: bytes | Path, numbers: Sequence[int], side: int, limits: Limits | None = None) -> Any:
    """Single frames.

    Args:
        source: The file's bytes, or its path.
        numbers: Frame numbers, ascending, each once.
        side: Short side in pixels; smaller videos keep their size.
        limits: What decoding may cost; None takes the defaults.

    Returns:
        (N, H, W, 3) uint8 RGB.

    Raises:
        BadSample: The frames do not decode, or a limit is passed.

    """
    limits = limits or Limits()
    clock = Clock(limits.seconds)

    def fit(height: int, width: int) -> tuple[int, int]:
        return fitted(height, width, min(side, height, width), None)

    with open_media(source) as container:
        stream = video_stream(container, limits)
        index = frame_index(clock.watch(container.demux(stream)), stream)
        if numbers[-1] >= len(index.pts):
            raise BadSample(f"the video has {len(index.pts)} frames, number {numbers[-1]} is asked for")
        return pictures_of("pyav", Request(source, index, list(numbers), fit, limits, clock), container, stream)
