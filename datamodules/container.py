"""Open a media file safely, and index its frames by demuxing: true frame numbers and keyframes, nothing decoded."""

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import av

from .quarantine import BadSample

VIDEO_EXTENSIONS = ("mp4", "mkv", "avi", "webm", "mov", "m4v", "mpg", "mpeg")
AUDIO_EXTENSIONS = ("wav", "flac", "mp3", "m4a", "aac", "ogg", "opus")
# FFmpeg asks Python for bytes in pieces of this size: its default of 32 KiB spends the time of a demux on asking
BUFFER_BYTES = 1 << 18

# PyAV's log callback takes the GIL from FFmpeg threads and can deadlock a worker (PyAV-Org/PyAV#751, #2276)
av.logging.set_level(None)


@dataclass(frozen=True)
class Limits:
    """What decoding one sample may cost.

    Attributes:
        seconds: Wall time, looked at between packets and frames (a call that hangs inside FFmpeg is not cut short).
        side: Height and width of a picture in pixels, as the file says.
        decoded_bytes: Bytes of the frames and of the audio, each.

    """

    seconds: float = 60.0
    side: int = 8192
    decoded_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if not number > 0:
                raise ValueError(f"{name} must be > 0, got {number}")

    def check_bytes(self, size: int, what: str) -> None:
        """Refuse a sample before its bytes are made.

        Raises:
            BadSample: More bytes than ``decoded_bytes``.

        """
        if size > self.decoded_bytes:
            raise BadSample(
                f"{what} would take {size} bytes decoded, more than the limit of {self.decoded_bytes}; "
                "sample fewer or smaller frames"
            )


class Clock:
    """The time that a sample has taken, checked while its packets or frames go by."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Stop where the time is over.

        Raises:
            BadSample: It is.

        """
        if time.monotonic() > self.end:
            raise BadSample(f"decoding takes longer than the time limit of {self.seconds:g} s")

    def watch(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same items.

        Raises:
            BadSample: The time is over.

        """
        for item in items:
            self.check()
            yield item


@dataclass(frozen=True)
class FrameIndex:
    """Presentation times of all frames that are shown.

    Attributes:
        pts: Ascending, in units of ``time_base``.
        keyframes: Those of the keyframes, ascending.
        time_base: Seconds of a unit.
        exact: Every frame has a time of its own; if not, ``pts`` only counts the frames.

    """

    pts: list[int]
    keyframes: list[int]
    time_base: Fraction
    exact: bool

    def seconds(self) -> list[float]:
        """Seconds of each frame since the first."""
        up, down, first = self.time_base.numerator, self.time_base.denominator, self.pts[0]
        return [(pts - first) * up / down for pts in self.pts]  # as exact as fractions, and ten times faster


@contextmanager
def open_media(source: bytes | Path, want: Literal["frames", "packets", "header"] = "frames") -> Iterator[Any]:
    """Open a file's bytes or path, and close it whatever happens.

    Args:
        source: The file.
        want: What will be read. For ``packets`` FFmpeg opens it without decoding the first frames, ten times faster;
            for ``header`` it looks at none, twice as fast again, and what only packets tell is not known.

    Raises:
        BadSample: FFmpeg cannot open or read it.

    """
    # more dicts than a file has streams do no harm; a decoder opened this way would guess its delay wrongly
    streams: Any = [] if want == "frames" else [{"skip_frame": "all"}] * 32
    # FFmpeg goes by content: a playlist called .mp4 would have it open the files that it names (no protocol is "none")
    options = {"protocol_whitelist": "none"} | ({"probesize": "32", "fpsprobesize": "0"} if want == "header" else {})
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            _opened(file, streams, options) as container,
        ):
            yield container
    except (av.FFmpegError, OSError) as error:
        # the temporary names inside FFmpeg's messages would make equal failures look different
        raise BadSample(f"the video does not decode: {type(error).__name__}") from error


def _opened(file: Any, streams: Any, options: dict[str, str]) -> Any:
    common: dict[str, Any] = {"metadata_errors": "ignore", "buffer_size": BUFFER_BYTES, "options": options}
    try:
        return av.open(file, stream_options=streams, **common)
    except av.FFmpegError:
        raise
    except ValueError:
        # mpg, flv and empty mp4 files name their streams only as packets come, and PyAV can give those no options
        file.seek(0)
        return av.open(file, **common)


def video_stream(container: Any, limits: Limits) -> Any:
    """The best video stream, set up for one thread.

    Raises:
        BadSample: No video stream, an unknown codec, or no picture size within the limits.

    """
    # not streams.video[0]: files may hold a small preview stream first
    stream = container.streams.best("video")
    if stream is None:
        raise BadSample("the file has no video stream")
    context = stream.codec_context
    if context is None:
        raise BadSample("the video's codec is not known to this build of FFmpeg")
    if context.height < 1 or context.width < 1:
        raise BadSample("the video stream has no picture size")
    if max(context.height, context.width) > limits.side:
        raise BadSample(f"pictures of {context.width} x {context.height} pixels: more than {limits.side} on a side")
    # frame threads deadlock workers that stop before the end (NVIDIA-TAO/tao-pytorch#109); workers beat threads
    stream.thread_type = "SLICE"
    context.thread_count = 1
    return stream


def frame_index(packets: Iterable[Any], stream: Any) -> FrameIndex:
    """Index of a video stream's packets.

    Raises:
        BadSample: None of them is shown.

    """
    # packets before an edit list's begin are decoded for their successors and never shown
    shown = [(packet_time(packet), packet.is_keyframe) for packet in packets if packet.size and not packet.is_discard]
    if not shown:
        raise BadSample("the video has no frames")
    times = [time for time, _ in shown if time is not None]
    if len(set(times)) < len(shown) or _in_decoding_order(times, stream):
        # no usable times (raw streams, B-frames in avi): number the frames, and let the caller decode them in order
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return FrameIndex(list(range(len(shown))), [], 1 / rate, exact=False)
    keyframes = sorted(time for time, is_keyframe in shown if time is not None and is_keyframe)
    return FrameIndex(sorted(times), keyframes, stream.time_base, exact=True)


def _in_decoding_order(times: list[int], stream: Any) -> bool:
    """Whether the times are those of decoding: an avi has no others, and FFmpeg's H.264 parser calls them pts."""
    return stream.container.format.name == "avi" and stream.codec_context.has_b_frames > 0 and times == sorted(times)


def packet_time(packet: Any) -> int | None:
    """When a packet's frame is shown, or where that is not said, when it is decoded; in the stream's units."""
    time: int | None = packet.pts if packet.pts is not None else packet.dts
    return time


def sampled_fps(seconds: list[float], rate: float) -> float:
    """Frames per second of times in order; ``rate`` (or 1) where they do not differ."""
    steps = sum(after > before for before, after in pairwise(seconds))
    if not steps:
        return rate or 1.0
    return (len(seconds) - 1) / (seconds[-1] - seconds[0])
