"""From a row to the clip that it speaks of: the frames at the sampled times, and the sound where it is asked for."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .audio import clip_sound
from .container import Limits
from .frame_cache import FrameCache
from .frames import Backend, check_backend, decoder_versions
from .manifest import Sample
from .quarantine import BadSample
from .reader import RecordReader
from .sampling import Chosen, Sampling, as_sampling
from .video import Clip, decode

_Window = tuple[float | None, float | None]
_WHOLE: _Window = None, None


class ClipReader:
    """Decode clips of a reader's rows.

    Args:
        reader: The rows.
        sampling: Which frames to look at: a rule, its name, or a number of uniform frames.
        size: Short side of the frames in pixels; None keeps the video's own.
        frame_cache: Keeps decoded frames; None decodes anew each time.
        backend: Who decodes frames: ``pyav``, or ``torchcodec`` where it is installed.
        limits: What decoding one clip may cost; None takes the defaults.
        blank: Show black frames, as many and as large at the same times.

    Raises:
        ValueError: An unknown rule, or a backend that is not installed.

    """

    def __init__(
        self,
        reader: RecordReader,
        sampling: Sampling | str | int,
        size: int | None = None,
        frame_cache: FrameCache | None = None,
        backend: Backend = "pyav",
        limits: Limits | None = None,
        blank: bool = False,
    ) -> None:
        check_backend(backend)
        self.reader, self.sampling, self.size = reader, as_sampling(sampling), size
        self.frame_cache, self.backend, self.limits = frame_cache, backend, limits or Limits()
        self.blank = blank

    def clip(self, row: int, record: dict[str, Any]) -> Clip | None:
        """Clip that a record speaks of; None for text alone (``media.video`` null).

        Its ``media`` says what is seen: the frames sampled of a window (``start_s``, ``end_s``) or those it names
        (``frame_indices``), in their order or another (``frame_order``), with another video's in some places
        (``splice``). Sound comes with it where the record says ``media.use_audio`` (that of the video's own file) or
        names a file in ``media.audio`` (the sample's own member of sound).

        Args:
            row: Of the reader.
            record: Its record, or a view of it (the same record with other fields in ``media``).

        Raises:
            BadSample: The video or its sound cannot be used.

        """
        media = record["media"]
        if media.get("video", "") is None:
            return None
        window, sample = (media.get("start_s"), media.get("end_s")), self.reader.sample(row)
        # read at most once, and not at all where the frames are kept and no sound is asked for
        video = functools.cache(lambda: self.reader.video(row))
        clip = self._frames(sample, video, window, self.rule(media), media.get("frame_order"))
        if media.get("splice"):
            clip = self._spliced(clip, **media["splice"])
        if self.blank:
            clip = replace(clip, frames=torch.zeros_like(clip.frames))
        if not (media.get("use_audio") or media.get("audio")):
            return clip
        apart = self.reader.audio(row) if media.get("audio") else None
        return replace(clip, audio=clip_sound(video(), *window, apart, self.limits))

    def rule(self, media: dict[str, Any]) -> Sampling:
        """Which frames a view looks at: those that it names, else those of the sampling rule.

        Raises:
            BadSample: It names frames of a window, or with sound.

        """
        if media.get("frame_indices") is None:
            return self.sampling
        if media.get("use_audio") or media.get("audio"):
            raise BadSample("frame_indices names frames, to which no stretch of sound belongs; leave the sound out")
        if media.get("start_s") is not None or media.get("end_s") is not None:
            raise BadSample("frame_indices names frames of the whole video; leave out start_s and end_s")
        return Chosen(tuple(media["frame_indices"]), self.sampling)

    def _spliced(self, clip: Clip, key: str, positions: list[int]) -> Clip:
        """The clip with what is sampled of another video in some places; it keeps its own times and picture size.

        Of a video with more or fewer sampled frames, those as far into it are seen.
        """
        places = torch.tensor(positions)
        if max(positions) >= len(clip.frames):
            raise BadSample(f"splice names position {max(positions)} of a clip of {len(clip.frames)} frames")
        try:
            sample = self.reader.sample_of(key)
            other = self._frames(sample, lambda: self.reader.video_of(key), _WHOLE, self.sampling, None).frames
        except BadSample as error:
            raise BadSample(f"splice with {key}: {error}") from error
        frames = clip.frames.clone()
        height, width = frames.shape[2:]
        frames[places] = _resized(other[places * len(other) // len(frames)], height, width)
        return replace(clip, frames=frames)

    def _frames(
        self, sample: Sample, video: Callable[[], bytes], window: _Window, rule: Sampling, order: list[int] | None
    ) -> Clip:
        if self.frame_cache is None:
            return self._decode(video(), window, rule, order)
        path = self.frame_cache.path(**self._identity(sample, window, rule))
        clip = self.frame_cache.get(path)
        if clip is None:
            clip = self._decode(video(), window, rule, None)
            self.frame_cache.put(path, clip)
        # what is kept serves every order
        return clip.reordered(order)

    def _decode(self, video: bytes, window: _Window, rule: Sampling, order: list[int] | None) -> Clip:
        start_s, end_s = window
        return decode(video, rule, start_s, end_s, order, self.size, self.backend, self.limits)

    def _identity(self, sample: Sample, window: _Window, rule: Sampling) -> dict[str, object]:
        return {
            "key": sample.key,
            "bytes": sample.members[sample.video_extension][1:],
            "window": window,
            "sampling": repr(rule),
            "size": self.size,
            "decoder": decoder_versions(self.backend),
        }


def _resized(frames: Tensor, height: int, width: int) -> Tensor:
    """(T, 3, H, W) uint8 at another height and width: bilinear, antialiased where it shrinks."""
    if tuple(frames.shape[2:]) == (height, width):
        return frames
    resized = interpolate(frames.float(), (height, width), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
