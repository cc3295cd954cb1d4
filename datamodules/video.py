"""Decode exact frames of a clip with PyAV, resized inside the decoder.

The seek is exact and cheap: one demux without decoding gives every presentation time, hence the true frame indices and
the keyframes; then decoding goes forward and seeks only where the wanted frame's keyframe lies beyond the position.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from .quarantine import BadSample

VIDEO_EXTENSIONS = ("mp4", "mkv", "avi", "webm", "mov", "m4v", "mpg", "mpeg")

# PyAV's log callback takes the GIL from FFmpeg threads and can deadlock a worker (PyAV-Org/PyAV#751, #2276)
av.logging.set_level(None)


@dataclass(frozen=True)
class Clip:
    """Frames of one clip in the order they are shown.

    Attributes:
        frames: (T, 3, H, W) uint8, RGB.
        timestamps_s: T seconds since the video's first frame, one for each of ``frames``.
        fps: Rate of the sampled frames (before ``frame_order``), in frames per second of the video's own time.

    """

    frames: Tensor
    timestamps_s: list[float]
    fps: float


@dataclass(frozen=True)
class VideoInfo:
    """What a demux without decoding tells of a video."""

    num_frames: int
    fps: float
    duration_s: float
    height: int
    width: int
    has_audio: bool


@dataclass(frozen=True)
class _FrameIndex:
    pts: list[int]
    keyframes: list[int]
    time_base: Fraction
    exact: bool  # every frame has its own presentation time

    def seconds(self) -> list[float]:
        return [float((pts - self.pts[0]) * self.time_base) for pts in self.pts]


def decode(
    source: bytes | Path,
    num_frames: int,
    start_s: float | None = None,
    end_s: float | None = None,
    size: int | None = None,
    frame_order: Sequence[int] | None = None,
) -> Clip:
    """Decode ``num_frames`` frames spread evenly over a clip or over a window of it.

    Args:
        source: The file's bytes, or its path.
        num_frames: Frames to show; where the window holds fewer, frames repeat.
        start_s: Begin of the window in seconds since the first frame (included).
        end_s: End of the window (excluded).
        size: Length of the short side after resizing; None keeps the video's own.
        frame_order: For each place shown, which of the ``num_frames`` sampled positions stands there.

    Raises:
        BadSample: The video does not open, is truncated or has no frame in the window, or ``frame_order`` does not fit.
        ValueError: ``num_frames`` below 1.

    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be >= 1, got {num_frames}")
    order = range(num_frames) if frame_order is None else frame_order
    _check_order(order, num_frames)
    with _open(source) as container:
        stream = _video_stream(container)
        index = _index_frames(container, stream)
        seconds = index.seconds()
        plan = _sample(seconds, num_frames, start_s, end_s)
        shown = [plan[position] for position in order]
        wanted = sorted(set(shown))
        pictures = _decode_exact(container, stream, index, wanted, size) if index.exact else None
        rate = float(stream.average_rate or 0.0)
    if pictures is None:
        pictures = _decode_sequential(source, wanted, size)
    place = {frame: position for position, frame in enumerate(wanted)}
    frames = torch.from_numpy(pictures[[place[frame] for frame in shown]].transpose(0, 3, 1, 2).copy())
    return Clip(frames, [seconds[frame] for frame in shown], _sampled_fps([seconds[frame] for frame in plan], rate))


def probe(source: bytes | Path) -> VideoInfo:
    """Measure a video by demuxing it, with no frame decoded.

    Raises:
        BadSample: The video does not open, holds no frame, or ends before its header says.

    """
    with _open(source) as container:
        stream = _video_stream(container)
        packets = [packet for packet in container.demux() if packet.size]
        _check_complete(container, packets)
        index = _frame_index([packet for packet in packets if packet.stream_index == stream.index], stream)
        seconds = index.seconds()
        fps = float(stream.average_rate or 0.0) or _sampled_fps(seconds, 1.0)
        height, width = stream.codec_context.height, stream.codec_context.width
        if height < 1 or width < 1:
            raise BadSample("the video stream has no picture size")
        has_audio = len(container.streams.audio) > 0
    return VideoInfo(len(seconds), fps, seconds[-1] + 1.0 / fps, height, width, has_audio)


@contextmanager
def _open(source: bytes | Path) -> Iterator[Any]:
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        with av.open(file, metadata_errors="ignore") as container:
            yield container
    except av.FFmpegError as error:
        # the temporary names inside FFmpeg's messages would make equal failures look different
        raise BadSample(f"the video does not decode: {type(error).__name__}") from error


def _video_stream(container: Any) -> Any:
    # not streams.video[0]: files may hold a small preview stream first
    stream = container.streams.best("video")
    if stream is None:
        raise BadSample("the file has no video stream")
    if stream.codec_context is None:
        raise BadSample("the video's codec is not known to this build of FFmpeg")
    # frame threads deadlock workers that stop before the end (NVIDIA-TAO/tao-pytorch#109); workers beat threads
    stream.thread_type = "SLICE"
    stream.codec_context.thread_count = 1
    return stream


def _index_frames(container: Any, stream: Any) -> _FrameIndex:
    return _frame_index([packet for packet in container.demux(stream) if packet.size], stream)


def _frame_index(packets: list[Any], stream: Any) -> _FrameIndex:
    # packets before an edit list's begin are decoded for their successors and never shown
    shown = [packet for packet in packets if not packet.is_discard]
    times = [packet.pts if packet.pts is not None else packet.dts for packet in shown]
    if not times:
        raise BadSample("the video has no frames")
    known = [time for time in times if time is not None]
    if len(set(known)) < len(times):
        # no usable times (raw streams, B-frames in avi): number the frames, and let the caller decode them in order
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return _FrameIndex(list(range(len(times))), [], 1 / rate, exact=False)
    keyframes = sorted(time for time, packet in zip(known, shown, strict=True) if packet.is_keyframe)
    return _FrameIndex(sorted(known), keyframes, stream.time_base, exact=True)


def _check_complete(container: Any, packets: list[Any]) -> None:
    """A cut mkv or avi ends without an error; its header still tells the whole duration."""
    ends = [
        float(((packet.pts if packet.pts is not None else packet.dts) + (packet.duration or 0)) * packet.time_base)
        for packet in packets
        if packet.pts is not None or packet.dts is not None
    ]
    if not ends or not container.duration:
        return
    start_s = (container.start_time or 0) / av.time_base
    header_s, found_s = container.duration / av.time_base, max(ends) - start_s
    if header_s - found_s > max(1.0, 0.1 * header_s):
        raise BadSample(f"the video is truncated: its header says {header_s:.1f} s, it ends after {found_s:.1f} s")


def _sample(seconds: list[float], num_frames: int, start_s: float | None, end_s: float | None) -> list[int]:
    start = 0.0 if start_s is None else start_s
    end = float("inf") if end_s is None else end_s
    # a microsecond of slack: cut points written as decimals meet times that are fractions
    window = [index for index, time in enumerate(seconds) if start - 1e-6 <= time < end - 1e-6]
    if not window:
        raise BadSample(f"the video has no frame between {start} s and {end} s (it ends at {seconds[-1]:.3f} s)")
    return [window[position] for position in np.linspace(0, len(window) - 1, num_frames).astype(int)]


def _check_order(frame_order: Sequence[int], num_frames: int) -> None:
    if len(frame_order) != num_frames or any(position not in range(num_frames) for position in frame_order):
        raise BadSample(
            f"frame_order has {len(frame_order)} entries for {num_frames} frames; "
            f"it must name that many positions of 0..{num_frames - 1}"
        )


def _sampled_fps(seconds: list[float], rate: float) -> float:
    steps = sum(after > before for before, after in pairwise(seconds))
    if not steps:
        return rate or 1.0
    return (len(seconds) - 1) / (seconds[-1] - seconds[0])


def _decode_exact(container: Any, stream: Any, index: _FrameIndex, wanted: list[int], size: int | None) -> Any:
    """Frames (N, H, W, 3) uint8 at the wanted indices; None where a seek did not land on its keyframe."""
    # one scaler for all frames: frame.reformat would set a new one up for each
    pictures, scaler = list[Any](), VideoReformatter()
    position: int | None = None
    frames: Iterator[Any] = iter(())
    for target in (index.pts[frame] for frame in wanted):
        keyframe = (
            index.keyframes[max(bisect_right(index.keyframes, target) - 1, 0)] if index.keyframes else index.pts[0]
        )
        if position is None or keyframe > position:
            container.seek(keyframe, stream=stream)
            frames = container.decode(stream)
        frame = next((frame for frame in frames if frame.pts is not None and frame.pts >= target), None)
        if frame is None or frame.pts != target:
            return None
        position = target
        pictures.append(_picture(scaler, frame, size))
    return _stack(pictures)


def _decode_sequential(source: bytes | Path, wanted: list[int], size: int | None) -> Any:
    """The same by decoding everything, for files whose times or seeks are of no use."""
    pictures, scaler = list[Any](), VideoReformatter()
    with _open(source) as container:
        stream = _video_stream(container)
        remaining = set(wanted)
        for position, frame in enumerate(container.decode(stream)):
            if position in remaining:
                pictures.append(_picture(scaler, frame, size))
            if position >= wanted[-1]:
                break
    if len(pictures) < len(wanted):
        raise BadSample(f"the video is truncated: {len(pictures)} of {len(wanted)} sampled frames decode")
    return _stack(pictures)


def _stack(pictures: list[Any]) -> Any:
    if any(picture.shape != pictures[0].shape for picture in pictures):
        raise BadSample("the video changes its picture size on the way")
    return np.stack(pictures)


def _picture(scaler: VideoReformatter, frame: Any, size: int | None) -> Any:
    height, width = frame.height, frame.width
    if size is not None:
        scale = size / min(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
    return scaler.reformat(frame, width, height, format="rgb24", interpolation="AREA").to_ndarray()
