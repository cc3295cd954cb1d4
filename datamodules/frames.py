"""The pictures at given frame numbers, resized inside the decoder: exact, and with as little decoding as can be.

Decoding goes forward and seeks only where the wanted frame's keyframe lies beyond the position. Backends by name:
``pyav``, and ``torchcodec`` where it is installed. Both give RGB of the video's own size, and the same scaler resizes
it, so the frames are equal (interlaced and 10-bit video apart, which the two FFmpegs turn into RGB differently).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from .container import Clock, FrameIndex, Limits, open_media, packet_time, video_stream
from .quarantine import BadSample

Backend = Literal["pyav", "torchcodec"]
Fit = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Request:
    """What to decode of an open video.

    Attributes:
        source: The file's bytes, or its path.
        index: Of its frames.
        wanted: Frame numbers, ascending, each once.
        fit: Height and width of a picture -> those after resizing.
        limits: What it may cost.
        clock: The time it has taken.

    """

    source: bytes | Path
    index: FrameIndex
    wanted: list[int]
    fit: Fit
    limits: Limits
    clock: Clock


def pictures_of(backend: Backend, request: Request, container: Any, stream: Any) -> Any:
    """Pictures (N, H, W, 3) uint8 RGB, one for each wanted frame.

    Args:
        backend: Who decodes.
        request: What.
        container: The open video; what the decoders read here starts wherever it stands.
        stream: Its video stream.

    Raises:
        BadSample: The frames do not decode, or change their size on the way.
        ValueError: The backend is not installed.

    """
    pictures = None
    if request.index.exact:
        seek = _torchcodec if backend == "torchcodec" else _seeking
        pictures = seek(request, container, stream)
    return _sequential(request) if pictures is None else pictures


def check_backend(backend: str) -> None:
    """Refuse a backend that cannot run.

    Raises:
        ValueError: An unknown name, or one that is not installed.

    """
    if backend not in ("pyav", "torchcodec"):
        raise ValueError(f"backend must be 'pyav' or 'torchcodec', got {backend!r}")
    if backend == "torchcodec":
        _torchcodec_decoder()


def decoder_versions(backend: Backend) -> list[str]:
    """What makes the pictures, with its version: another one may round otherwise."""
    libraries = ["av"] if backend == "pyav" else ["av", backend]  # PyAV resizes whoever decodes
    return [backend, *map(version, libraries)]


class _Pictures:
    """Pictures on their way to one array: RGB first, then resized, so that every backend's are resized alike."""

    def __init__(self, fit: Fit) -> None:
        # one of each for all frames (frame.reformat would set a new one up for each)
        self.fit, self.converter, self.scaler = fit, VideoReformatter(), VideoReformatter()
        self.arrays, self.size = list[Any](), None

    def add_frame(self, frame: Any) -> None:
        # only chroma is interpolated; with AREA this step would leave FFmpeg's fast path and take thirty times as long
        self.add(self.converter.reformat(frame, format="rgb24", interpolation="BILINEAR").to_ndarray())

    def add(self, picture: Any) -> None:
        size = picture.shape[:2]
        if self.size not in (None, size):
            raise BadSample("the video changes its picture size on the way")
        self.size = size
        height, width = self.fit(*size)
        if (height, width) != size:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            picture = self.scaler.reformat(frame, width, height, interpolation="AREA").to_ndarray()
        self.arrays.append(picture)

    def stack(self) -> Any:
        return np.stack(self.arrays)


def _seeking(request: Request, container: Any, stream: Any) -> Any:
    """None where a seek did not land on its keyframe."""
    index, pictures = request.index, _Pictures(request.fit)
    targets = [index.pts[frame] for frame in request.wanted]
    wanted = set(targets)
    position: int | None = None
    frames: Iterator[Any] = iter(())
    for target in targets:
        before = bisect_right(index.keyframes, target) - 1
        keyframe = index.keyframes[max(before, 0)] if index.keyframes else index.pts[0]
        if position is None or keyframe > position:
            container.seek(keyframe, stream=stream)
            frames = request.clock.watch(_decoded(container, stream, wanted))
        frame = next((frame for frame in frames if frame.pts is not None and frame.pts >= target), None)
        if frame is None or frame.pts != target:
            return None
        position = target
        pictures.add_frame(frame)
    return pictures.stack()


def _decoded(container: Any, stream: Any, wanted: set[int]) -> Iterator[Any]:
    """Frames from where the container stands on, without some that are neither wanted nor needed by another."""
    context = stream.codec_context
    # H.264 says of each frame whether any other needs it; HEVC says so within one temporal layer only
    skips = context.name == "h264"
    for packet in container.demux(stream):
        if skips:
            context.skip_frame = "DEFAULT" if packet_time(packet) in wanted else "NONREF"
        yield from packet.decode()


def _sequential(request: Request) -> Any:
    """The same by decoding everything, for files whose times or seeks are of no use."""
    pictures, remaining = _Pictures(request.fit), set(request.wanted)
    with open_media(request.source) as container:
        stream = video_stream(container, request.limits)
        for position, frame in enumerate(request.clock.watch(container.decode(stream))):
            if position in remaining:
                pictures.add_frame(frame)
            if position >= request.wanted[-1]:
                break
    if len(pictures.arrays) < len(request.wanted):
        found, wanted = len(pictures.arrays), len(request.wanted)
        raise BadSample(f"the video is truncated: {found} of {wanted} sampled frames decode")
    return pictures.stack()


def _torchcodec(request: Request, container: Any, stream: Any) -> Any:
    """None where torchcodec cannot read it, or counts or numbers frames otherwise than the demux found."""
    source = request.source if isinstance(request.source, bytes) else str(request.source)
    decoder_class, index, pictures = _torchcodec_decoder(), request.index, _Pictures(request.fit)
    try:
        decoder = decoder_class(source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        if len(decoder) != len(index.pts):
            return None
        for number in request.clock.watch(request.wanted):
            frame = decoder.get_frame_at(number)
            # of an avi with B-frames it hands out a neighbour, under the neighbour's time
            if abs(frame.pts_seconds / index.time_base - index.pts[number]) > 0.5:
                return None
            pictures.add(frame.data.numpy())
    except RuntimeError:
        return None  # as in a long group of an mpegts; what nobody can read, PyAV says with its reason
    return pictures.stack()


def _torchcodec_decoder() -> Any:
    try:
        # a wheel of another torch, or without FFmpeg's libraries, fails with RuntimeError or OSError
        return import_module("torchcodec.decoders").VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(
            "backend 'torchcodec' cannot be imported; install the torchcodec that fits this torch, and FFmpeg's "
            "libraries, or take backend 'pyav'"
        ) from error
