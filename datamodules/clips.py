"""From a row to the clip that it speaks of: the frames at the sampled times, and the sound where it is asked for."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .audio import clip_sound
from .container import Limits
from .frame_cache import FrameCache
from .frames import Backend, check_backend, decoder_versions
from .reader import RecordReader
from .sampling import Sampling, as_sampling
from .video import Clip, decode

_Window = tuple[float | None, float | None]


class ClipReader:
    """Decode clips of a reader's rows.

    Args:
        reader: The rows.
        sampling: Which frames to look at: a rule, its name, or a number of uniform frames.
        size: Short side of the frames in pixels; None keeps the video's own.
        frame_cache: Keeps decoded frames; None decodes anew each time.
        backend: Who decodes frames: ``pyav``, or ``torchcodec`` where it is installed.
        limits: What decoding one clip may cost; None takes the defaults.

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
    ) -> None:
        check_backend(backend)
        self.reader, self.sampling, self.size = reader, as_sampling(sampling), size
        self.frame_cache, self.backend, self.limits = frame_cache, backend, limits or Limits()

    def clip(self, row: int, record: dict[str, Any]) -> Clip | None:
        """Clip that a record speaks of: window and frame order; None for text alone (``media.video`` null).

        Sound comes with it where the record says ``media.use_audio`` (that of the video's own file) or names a file in
        ``media.audio`` (the sample's own member of sound).

        Args:
            row: Of the reader.
            record: Its record, or a view of it (the same record with other fields in ``media``).

        Raises:
            BadSample: The video or its sound cannot be used.

        """
        media = record["media"]
        if media.get("video", "") is None:
            return None
        window = media.get("start_s"), media.get("end_s")
        # read at most once, and not at all where the frames are kept and no sound is asked for
        video = functools.cache(lambda: self.reader.video(row))
        clip = self._frames(row, video, window, media.get("frame_order"))
        if not (media.get("use_audio") or media.get("audio")):
            return clip
        apart = self.reader.audio(row) if media.get("audio") else None
        return replace(clip, audio=clip_sound(video(), *window, apart, self.limits))

    def _frames(self, row: int, video: Callable[[], bytes], window: _Window, order: list[int] | None) -> Clip:
        if self.frame_cache is None:
            return self._decode(video(), window, order)
        path = self.frame_cache.path(**self._identity(row, window))
        clip = self.frame_cache.get(path)
        if clip is None:
            clip = self._decode(video(), window, None)
            self.frame_cache.put(path, clip)
        # what is kept serves every order
        return clip.reordered(order)

    def _decode(self, video: bytes, window: _Window, order: list[int] | None) -> Clip:
        start_s, end_s = window
        return decode(video, self.sampling, start_s, end_s, order, self.size, self.backend, self.limits)

    def _identity(self, row: int, window: _Window) -> dict[str, object]:
        sample = self.reader.sample(row)
        return {
            "key": sample.key,
            "bytes": sample.members[sample.video_extension][1:],
            "window": window,
            "sampling": repr(self.sampling),
            "size": self.size,
            "decoder": decoder_versions(self.backend),
        }
