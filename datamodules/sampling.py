"""Which frames of a video are looked at, and how many pixels they may have: published rules, by class or by name."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .quarantine import BadSample


class Sampling(ABC):
    """A rule. It sees a window's frame count and rate alone, so a plan knows its result from the manifest.

    Caches go by its repr, which must tell its settings: make it a frozen dataclass.
    """

    @abstractmethod
    def positions(self, num_frames: int, fps: float) -> list[int]:
        """Frames to show, by their position in the window, ascending; a short window may repeat some.

        Args:
            num_frames: Frames in the window, 1 or more.
            fps: Average frames per second of the video.

        """

    def max_pixels(self, num_sampled: int) -> float | None:
        """Pixels that each of so many sampled frames may have at most; None sets no bound."""
        return None

    def shape(
        self, num_frames: int, fps: float, height: int, width: int, size: int | None = None
    ) -> tuple[int, int, int]:
        """Sampled frames, their height and width in pixels, without looking at the video.

        Args:
            num_frames: Frames in the window.
            fps: Frames per second of the video.
            height: Of the video's picture.
            width: Of the video's picture.
            size: Short side after resizing; None keeps the video's own.

        """
        sampled = len(self.positions(num_frames, fps))
        return sampled, *fitted(height, width, size, self.max_pixels(sampled))


@dataclass(frozen=True)
class Uniform(Sampling):
    """So many frames, spread evenly from the first to the last (LLaVA-Hound and ISR-DPO: 8).

    Attributes:
        num_frames: Frames to show; where the window holds fewer, frames repeat.

    """

    num_frames: int

    def __post_init__(self) -> None:
        _at_least_one(num_frames=self.num_frames)

    def positions(self, num_frames: int, fps: float) -> list[int]:
        """As :meth:`Sampling.positions`."""
        return _spread(num_frames, self.num_frames)


@dataclass(frozen=True)
class Fps(Sampling):
    """Every k-th frame for a rate, spread evenly where that gives too many (video-SALMONN 2: 1 fps, 110 frames).

    Attributes:
        fps: Frames per second to look at; k is the video's rate divided by it, rounded.
        max_frames: Frames at most.

    """

    fps: float = 1.0
    max_frames: int = 110

    def __post_init__(self) -> None:
        _at_least_one(max_frames=self.max_frames)
        _positive(fps=self.fps)

    def positions(self, num_frames: int, fps: float) -> list[int]:
        """As :meth:`Sampling.positions`."""
        every = list(range(0, num_frames, max(1, round(fps / self.fps))))
        return every if len(every) <= self.max_frames else _spread(num_frames, self.max_frames)


@dataclass(frozen=True)
class PixelBudget(Sampling):
    """A rate with a maximum, and a bound on the pixels of the whole video (TEMPO; the rule of qwen_vl_utils).

    Attributes:
        fps: Frames per second to look at.
        max_frames: Frames at most.
        min_frames: Frames at least, where the window holds them.
        total_pixels: Pixels of all time steps together; two frames make one step, so frames share twice as many.
        max_frame_pixels: Pixels of a frame at most, however few there are.
        min_frame_pixels: A frame is never bound to fewer than 1.05 times these.

    """

    fps: float = 1.0
    max_frames: int = 600
    min_frames: int = 4
    total_pixels: int = 9_000_000
    max_frame_pixels: int = 768 * 28 * 28
    min_frame_pixels: int = 3136

    def __post_init__(self) -> None:
        _at_least_one(min_frames=self.min_frames, total_pixels=self.total_pixels)
        _positive(fps=self.fps)
        if self.max_frames < max(2, self.min_frames):
            raise ValueError(f"max_frames must be >= 2 and >= min_frames ({self.min_frames}), got {self.max_frames}")

    def positions(self, num_frames: int, fps: float) -> list[int]:
        """As :meth:`Sampling.positions`; an even number of them, times rounded to the nearest frame."""
        wanted = min(max(num_frames / fps * self.fps, self.min_frames), self.max_frames, num_frames)
        count = max(2, int(wanted) // 2 * 2)
        return [int(place) for place in np.linspace(0, num_frames - 1, count).round()]

    def max_pixels(self, num_sampled: int) -> float | None:
        """As :meth:`Sampling.max_pixels`."""
        return max(min(self.max_frame_pixels, self.total_pixels / num_sampled * 2), int(self.min_frame_pixels * 1.05))


@dataclass(frozen=True)
class ConstantTokens(Sampling):
    """A frame for each interval within bounds; fewer frames get more pixels (video-SALMONN 2+).

    Attributes:
        interval_s: Seconds between two frames.
        min_frames: Frames at least (they repeat in a shorter video).
        max_frames: Frames at most.
        max_frame_pixels: Pixels of a frame at most where there are ``max_frames``; with n fewer, 0.95 of
            ``max_frames / n`` times as many.

    """

    interval_s: float = 0.1
    min_frames: int = 64
    max_frames: int = 768
    max_frame_pixels: int = 61_250

    def __post_init__(self) -> None:
        _at_least_one(min_frames=self.min_frames, max_frame_pixels=self.max_frame_pixels)
        _positive(interval_s=self.interval_s)
        if self.max_frames < self.min_frames:
            raise ValueError(f"max_frames must be >= min_frames ({self.min_frames}), got {self.max_frames}")

    def positions(self, num_frames: int, fps: float) -> list[int]:
        """As :meth:`Sampling.positions`."""
        wanted = round(num_frames / fps / self.interval_s)
        return _spread(num_frames, min(max(wanted, self.min_frames), self.max_frames))

    def max_pixels(self, num_sampled: int) -> float | None:
        """As :meth:`Sampling.max_pixels`."""
        fewer = num_sampled < self.max_frames
        return self.max_frame_pixels * (0.95 * self.max_frames / num_sampled if fewer else 1.0)


@dataclass(frozen=True)
class Chosen(Sampling):
    """Frames that a record names itself (``media.frame_indices``), under the bound of pixels of another rule.

    Attributes:
        frames: Their numbers in the video, in any order.
        rule: Says how many pixels so many frames may have.

    """

    frames: tuple[int, ...]
    rule: Sampling

    def positions(self, num_frames: int, fps: float) -> list[int]:
        """The frames, in the order they are named.

        Raises:
            BadSample: The video has fewer frames.

        """
        if max(self.frames) >= num_frames:
            raise BadSample(f"frame_indices names frame {max(self.frames)} of a video of {num_frames} frames")
        return list(self.frames)

    def max_pixels(self, num_sampled: int) -> float | None:
        """As :meth:`Sampling.max_pixels`."""
        return self.rule.max_pixels(num_sampled)


def as_sampling(rule: Sampling | str | int) -> Sampling:
    """A rule from itself, its name in :data:`NAMED`, or a number of uniform frames.

    Raises:
        ValueError: No such name, a number below 1, or a rule whose repr does not tell its settings.

    """
    if type(rule).__repr__ is object.__repr__:
        raise ValueError(
            f"caches go by repr({type(rule).__name__}); make it a dataclass, whose repr tells its settings"
        )
    if isinstance(rule, int):
        return Uniform(rule)
    if isinstance(rule, str):
        if rule not in NAMED:
            raise ValueError(f"sampling must be one of {', '.join(NAMED)}, or a class of {__name__}; got {rule!r}")
        return NAMED[rule]
    return rule


def fitted(height: int, width: int, size: int | None, max_pixels: float | None) -> tuple[int, int]:
    """Height and width of a resized picture: the short side is ``size``, then it shrinks to ``max_pixels``."""
    scale = 1.0 if size is None else size / min(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    if max_pixels is None or height * width <= max_pixels:
        return height, width
    scale = (max_pixels / (height * width)) ** 0.5
    return max(1, int(height * scale)), max(1, int(width * scale))


def _spread(num_frames: int, count: int) -> list[int]:
    return [int(place) for place in np.linspace(0, num_frames - 1, count)]


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be >= 1, got {number}")


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be > 0, got {number}")


# the rules of the three methods' released recipes
NAMED: dict[str, Sampling] = {
    "tempo": PixelBudget(),
    "hound": Uniform(8),
    "video_salmonn_2": Fps(1.0, 110),
    "video_salmonn_2_plus": ConstantTokens(),
}
