"""A clip of a video: frames at exact times."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .container import Clock, Limits, frame_index, open_media, sampled_fps, video_stream
from .frames import Backend, Request, pictures_of
from .quarantine import BadSample
from .sampling import Sampling, as_sampling, fitted


@dataclass(frozen=True)
class Clip:
    """Frames of one clip in the order they are shown.

    Attributes:
        frames: (T, 3, H, W) uint8, RGB.
        timestamps_s: T seconds since the video's first frame, one for each of ``frames``.
        fps: Rate of the sampled frames (before ``frame_order``), in frames per second of the video's own time.
        audio: (samples,) float32, 16 kHz mono, of the same window; None where none was asked for.

    """

    frames: Tensor
    timestamps_s: list[float]
    fps: float
    audio: Tensor | None = None

    def reordered(self, frame_order: Sequence[int] | None) -> "Clip":
        """The same clip with its frames in another order (None keeps it); the sound stays.

        Raises:
            BadSample: The order does not name as many positions as there are frames.

        """
        if frame_order is None:
            return self
        order = _checked_order(frame_order, len(self.timestamps_s))
        return replace(self, frames=self.frames[order], timestamps_s=[self.timestamps_s[place] for place in order])


def decode(
    source: bytes | Path,
    sampling: Sampling | str | int,
    start_s: float | None = None,
    end_s: float | None = None,
    frame_order: Sequence[int] | None = None,
    size: int | None = None,
    backend: Backend = "pyav",
    limits: Limits | None = None,
) -> Clip:
    """Decode the frames that a rule samples of a clip or of a window of it.

    Args:
        source: The file's bytes, or its path.
        sampling: Which frames: a rule, its name, or a number of uniform frames.
        start_s: Begin of the window in seconds since the first frame (included).
        end_s: End of the window (excluded).
        frame_order: For each place shown, which of the sampled positions stands there.
        size: Length of the short side after resizing; None keeps the video's own.
        backend: Who decodes the frames.
        limits: What decoding may cost; None takes the defaults.

    Raises:
        BadSample: The video does not open, is truncated or has no frame in the window, ``frame_order`` does not fit,
            or a limit is passed.
        ValueError: An unknown rule, a number of frames below 1, or a backend that is not installed.

    """
    rule, limits = as_sampling(sampling), limits or Limits()
    clock = Clock(limits.seconds)
    with open_media(source) as container:
        stream = video_stream(container, limits)
        index = frame_index(clock.watch(container.demux(stream)), stream)
        seconds, rate = index.seconds(), float(stream.average_rate or 0.0)
        plan = _sample(seconds, rule, start_s, end_s, rate)
        shown = plan if frame_order is None else [plan[place] for place in _checked_order(frame_order, len(plan))]
        wanted = sorted(set(shown))
        bound = rule.max_pixels(len(plan))

        def fit(height: int, width: int) -> tuple[int, int]:
            return fitted(height, width, size, bound)

        height, width = fit(stream.codec_context.height, stream.codec_context.width)
        limits.check_bytes(3 * height * width * len(shown), f"{len(shown)} frames")
        request = Request(source, index, wanted, fit, limits, clock)
        pictures = pictures_of(backend, request, container, stream)
    place = {frame: position for position, frame in enumerate(wanted)}
    frames = torch.from_numpy(pictures[[place[frame] for frame in shown]].transpose(0, 3, 1, 2).copy())
    fps = sampled_fps(sorted(seconds[frame] for frame in plan), rate)
    return Clip(frames, [seconds[frame] for frame in shown], fps)


def _sample(seconds: list[float], rule: Sampling, start_s: float | None, end_s: float | None, rate: float) -> list[int]:
    start = 0.0 if start_s is None else start_s
    end = float("inf") if end_s is None else end_s
    # a microsecond of slack: cut points written as decimals meet times that are fractions
    window = [index for index, time in enumerate(seconds) if start - 1e-6 <= time < end - 1e-6]
    if not window:
        raise BadSample(f"the video has no frame between {start} s and {end} s (it ends at {seconds[-1]:.3f} s)")
    return [window[position] for position in rule.positions(len(window), rate or sampled_fps(seconds, 1.0))]


def _checked_order(frame_order: Sequence[int], num_frames: int) -> list[int]:
    if len(frame_order) != num_frames or any(position not in range(num_frames) for position in frame_order):
        raise BadSample(
            f"frame_order has {len(frame_order)} entries for {num_frames} frames; "
            f"it must name that many positions of 0..{num_frames - 1}"
        )
    return list(frame_order)
