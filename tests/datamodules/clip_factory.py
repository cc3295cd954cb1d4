"""Clips and shards for the tests of the data modules, made on the spot."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lit_vpo.datamodules.writer import ShardWriter


def encode_clip(
    path,
    num_frames=64,
    side=64,
    fps=8,
    gop=12,
    seed=0,
    height=None,
    codec="libx264",
    b_frames=2,
    audio=False,
    container="mp4",
):
    """Write an H.264 clip of smoothly changing noise in which every frame is different."""
    generator = np.random.default_rng(seed)
    height = height or side
    base = generator.integers(0, 200, (height // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    options = {"g": str(gop), "bf": str(b_frames), "crf": "18", "preset": "veryfast"} if codec == "libx264" else {}
    known = isinstance(path, Path) and path.suffix
    file = str(path) if isinstance(path, Path) else path
    with av.open(file, "w", format=None if known else container) as out:
        stream = out.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = side, height, "yuv420p"
        sound = out.add_stream("aac", rate=16000) if audio else None
        for index in range(num_frames):
            picture = np.roll(base, 3 * index, axis=1).astype(np.uint8)
            picture[: height // 4] = (index * 4) % 256
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound is not None:
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            wave.sample_rate, wave.pts = 16000, 0
            out.mux(sound.encode(wave))
            out.mux(sound.encode())


def clip_bytes(**options):
    buffer = io.BytesIO()
    encode_clip(buffer, **options)
    return buffer.getvalue()


def write_shards(folder, clips, records=None, **options):
    """Shards of clips named s0, s1, ... whose records ask for a caption."""
    with ShardWriter(folder, **options) as writer:
        for number, clip in enumerate(clips):
            record = {"media": {}, "prompt": "What is in this video?", "ground_truth": f"a cat {number}", "mode": "sft"}
            writer.write(f"s{number}", record if records is None else records[number], clip)
    return folder
