"""What a file tells of a video without decoding it, and whether its first and last frames decode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from .container import Clock, FrameIndex, Limits, frame_index, open_media, packet_time, sampled_fps, video_stream
from .quarantine import BadSample

_DISCARD = 2  # AVINDEX_DISCARD_FRAME: an edit list leaves the frame out


@dataclass(frozen=True)
class VideoInfo:
    """What a demux without decoding tells of a video."""

    num_frames: int
    fps: float
    duration_s: float
    height: int
    width: int
    has_audio: bool


def probe(source: bytes | Path, limits: Limits | None = None) -> VideoInfo:
    """Measure a video by demuxing it, with no frame decoded.

    Raises:
        BadSample: The video does not open, holds no frame, ends before its header says, or passes a limit.

    """
    limits = limits or Limits()
    return _by_header(source, limits) or _by_packets(source, limits)


def check_ends(source: bytes | Path, limits: Limits | None = None) -> None:
    """Decode a video's first and last group of pictures; all of it where its frames have no times of their own.

    Raises:
        BadSample: Frames are missing there or do not decode.

    """
    limits = limits or Limits()
    clock = Clock(limits.seconds)
    with open_media(source) as container:
        stream = video_stream(container, limits)
        index = frame_index(clock.watch(container.demux(stream)), stream)
        begins = index.keyframes if index.exact and len(index.keyframes) > 1 else [index.pts[0]]
        container.seek(index.pts[0], stream=stream)
        _count(container, stream, clock, index.pts if len(begins) == 1 else [p for p in index.pts if p < begins[1]])
        if len(begins) > 1:
            container.seek(begins[-1], stream=stream)
            _count(container, stream, clock, [pts for pts in index.pts if pts >= begins[-1]])


def _count(container: Any, stream: Any, clock: Clock, expected: list[int]) -> None:
    found = 0
    for frame in clock.watch(container.decode(stream)):
        if frame.is_corrupt:
            raise BadSample(f"frame {found} of a group of pictures is damaged")
        found += frame.pts is None or frame.pts >= expected[0]
        if found == len(expected):
            return
    raise BadSample(f"the video is truncated: {found} of {len(expected)} frames of a group of pictures decode")


def _by_header(source: bytes | Path, limits: Limits) -> VideoInfo | None:
    """What the sample table of an mp4 tells, which is whole once the file is open; None where there is none."""
    with open_media(source, want="header") as container:
        video = container.streams.best("video") if container.format.name.startswith("mov") else None
        entries = getattr(video, "index_entries", None)  # since PyAV 17; before it, packets tell the same in more time
        if video is None or video.codec_context is None or not entries or len(entries) != video.frames:
            return None
        stream = video_stream(container, limits)
        last = [other.index_entries[len(other.index_entries) - 1] for other in container.streams if other.index_entries]
        end = max(entry.pos + entry.size for entry in last)
        if end > container.size:
            raise BadSample(f"the video is truncated: its header names {end} bytes, the file has {container.size}")
        times = sorted(entry.timestamp for entry in entries if not entry.flags & _DISCARD)
        return _info(container, stream, FrameIndex(times, [], stream.time_base, exact=True)) if times else None


def _by_packets(source: bytes | Path, limits: Limits) -> VideoInfo:
    with open_media(source, want="packets") as container:
        stream = video_stream(container, limits)
        clock, packets, ends = Clock(limits.seconds), list[Any](), dict[int, int]()
        # a long recording has a million packets: what is done for each of them is the time that indexing takes
        for packet in container.demux():
            number, time = packet.stream_index, packet_time(packet)
            if time is not None and packet.size:
                ends[number] = max(ends.get(number, time), time + (packet.duration or 0))
            if number == stream.index:
                packets.append(packet)
                clock.check()
        _check_complete(container, ends)
        return _info(container, stream, frame_index(packets, stream))


def _info(container: Any, stream: Any, index: FrameIndex) -> VideoInfo:
    seconds = index.seconds()
    fps = float(stream.average_rate or 0.0) or sampled_fps(seconds, 1.0)
    context, has_audio = stream.codec_context, len(container.streams.audio) > 0
    return VideoInfo(len(seconds), fps, seconds[-1] + 1.0 / fps, context.height, context.width, has_audio)


def _check_complete(container: Any, ends: dict[int, int]) -> None:
    """A cut mkv or avi ends without an error; its header still tells the whole duration.

    `ends` holds the end of each stream that has any, in its units.
    """
    if not ends or not container.duration:
        return
    end_s = max(float(end * container.streams[number].time_base) for number, end in ends.items())
    start_s = (container.start_time or 0) / av.time_base
    header_s, found_s = container.duration / av.time_base, end_s - start_s
    if header_s - found_s > max(1.0, 0.1 * header_s):
        raise BadSample(f"the video is truncated: its header says {header_s:.1f} s, it ends after {found_s:.1f} s")
