"""Sound of a clip: 16 kHz mono samples that begin with the clip's first frame."""

from pathlib import Path

import numpy as np
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor

from .container import Clock, Limits, frame_index, open_media, sampled_fps, video_stream
from .quarantine import BadSample

SAMPLE_RATE = 16_000  # Hz, what every speech encoder here listens to


def clip_sound(
    video: bytes | Path,
    start_s: float | None = None,
    end_s: float | None = None,
    apart: bytes | Path | None = None,
    limits: Limits | None = None,
) -> Tensor:
    """Sound of a clip, from its first frame to the end of its last.

    Args:
        video: The video's file.
        start_s: Begin of the window in seconds since the video's first frame.
        end_s: End of the window.
        apart: A file of sound that begins with the video; None takes the video's own sound.
        limits: What it may cost.

    Returns:
        (samples,) float32, 16 kHz mono.

    Raises:
        BadSample: As :func:`decode_audio`, or what a video's frames cannot be counted for.

    """
    limits = limits or Limits()
    with open_media(video, want="packets") as container:
        stream = video_stream(container, limits)
        index = frame_index(Clock(limits.seconds).watch(container.demux(stream)), stream)
        seconds = index.seconds()
        last = seconds[-1] + 1.0 / (float(stream.average_rate or 0.0) or sampled_fps(seconds, 1.0))
    end = last if end_s is None else min(end_s, last)
    if apart is not None:
        return decode_audio(apart, start_s or 0.0, end, None, limits)
    return decode_audio(video, start_s or 0.0, end, float(index.pts[0] * index.time_base), limits)


def decode_audio(
    source: bytes | Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    origin_s: float | None = None,
    limits: Limits | None = None,
) -> Tensor:
    """Decode the best audio stream of a file, or a window of it.

    Decoding starts at the file's begin whatever the window: after a seek, codecs give other samples for a while.

    Args:
        source: The file's bytes, or its path; of a video or of sound alone.
        start_s: Begin of the window in seconds.
        end_s: Its end; None is the end of the sound.
        origin_s: Where second 0 lies on the file's own clock (the video's first frame); None is the sound's begin.
        limits: What it may cost; None takes the defaults.

    Returns:
        (samples,) float32 in -1..1, silent until the sound begins; shorter than the window where the sound ends sooner.

    Raises:
        BadSample: No audio stream, one that does not decode, or nothing of it in the window.

    """
    limits = limits or Limits()
    stop = None if end_s is None or origin_s is None else origin_s + end_s
    wave, begin = _resampled(source, stop, limits)
    lead = 0 if origin_s is None else round((begin - origin_s) * SAMPLE_RATE)
    wave = np.concatenate([np.zeros(lead, np.float32), wave]) if lead > 0 else wave[-lead:]
    end = None if end_s is None else round(end_s * SAMPLE_RATE)
    wave = wave[round(start_s * SAMPLE_RATE) : end]
    if not len(wave):
        raise BadSample(f"the file has no sound between {start_s} s and {end_s} s")
    return torch.from_numpy(wave.copy())


def _resampled(source: bytes | Path, stop: float | None, limits: Limits) -> tuple[np.ndarray, float]:
    """All samples up to a time on the file's clock, and the time of the first."""
    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    pieces, begin, size = list[np.ndarray](), 0.0, 0
    with open_media(source) as container:
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            raise BadSample("the file has no audio stream that can be decoded")
        for frame in Clock(limits.seconds).watch(container.decode(stream)):
            if not pieces:
                begin = frame.time or 0.0
            pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            size += pieces[-1].nbytes if pieces else 0
            limits.check_bytes(size, "the sound")
            # a second more than asked: what the resampler still holds back lies before the window's end
            if stop is not None and (frame.time or 0.0) > stop + 1.0:
                break
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32), begin
