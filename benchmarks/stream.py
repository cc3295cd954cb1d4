"""How fast samples stream, what a resume costs, what a worker keeps, and what planning takes.

    python benchmarks/stream.py [--repeats 5] [--clips 8] [--soaked 2000] [--json]

- `loader_fraction_of_decoder`: samples per second through the loader with 2 workers (read, check, decode, hand over),
  as a part of what 2 processes decode that do nothing else. Wanted: 0.9 or more.
- `seek_speedup`: time of one seek for every frame, divided by ours: 16 uniform frames of 720p clips. Wanted: 4 or more.
- `torchcodec_ratio`: our time divided by that of torchcodec alone for the same frames in the same size; null where it
  cannot be imported. Wanted: 1.1 or less.
- `resume_ratio`: seconds to the first batch at 90 % of an epoch of 20,000 rows, divided by those of a fresh start.
  Wanted: 1.1 or less.
- `worker_growth_mb`: what a worker's memory grows by between its 500th and its last clip. Wanted: none.
- `plan_seconds`, `plan_mb`: an epoch of 1,000,000 samples, shards, token budget and sort windows included, in a process
  of its own. Wanted: below 5 and 300.

The clips are made here: 1280 x 720, 10 s, 30 fps, a keyframe every 250 frames, as x264 writes by itself. All times are
medians over repeats, of pairs that run in turn.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

import lit_vpo.datamodules as data
from lit_vpo.datamodules.batching import Lengths
from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.responses import Response

WIDTH, HEIGHT = 1280, 720
NUM_FRAMES, SIZE = 16, 224
WORKERS = 2
PLANNED = 1_000_000


class Frames:
    """The least that a loader can ask of a collator: frames in one tensor for each clip."""

    counted_fields = ()

    @property
    def texts(self) -> "Frames":
        """What the loader asks about texts."""
        return self

    def check(self, record: dict[str, Any]) -> None:
        """Every record is good."""

    def responses(self, record: dict[str, Any]) -> list[Any]:
        """One row for each record."""
        return [Response("prompt", "", record["media"])]

    def counts(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """No texts to count."""
        return [{} for _ in records]

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The clips' frames, and the records."""
        return {"frames": [clips[0].frames for _, clips in examples], "records": [record for record, _ in examples]}


def make_clip(seed: int, width: int = WIDTH, height: int = HEIGHT, num_frames: int = 300, fps: int = 30) -> bytes:
    """An H.264 clip of drifting blocks with noise on them."""
    draw = np.random.default_rng(seed)
    base = draw.integers(0, 256, (height // 16 + 1, width // 16, 3)).repeat(16, 0).repeat(16, 1)
    base = base[:height].astype(np.int16)
    noise = draw.integers(-8, 8, (height, width, 1), dtype=np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            picture = np.roll(base, 2 * number, axis=1) + np.roll(noise, 7 * number, axis=0)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def make_reader(folder: Path, clips: list[bytes], num_rows: int) -> data.RecordReader:
    """Shards of clips, and a reader of so many rows over them in turn."""
    with data.ShardWriter(folder) as writer:
        for number, clip in enumerate(clips):
            writer.write(f"s{number}", {"media": {}, "prompt": "What?"}, clip)
    rows = tuple({"key": f"s{number % len(clips)}", "id": f"r{number}"} for number in range(num_rows))
    return data.RecordReader(data.Manifest.load(folder), data.Overlay(rows))


def make_loader(reader: data.RecordReader, **options: Any) -> data.ShardLoader:
    """A loader of single clips."""
    options = {"batch_size": 1, "num_frames": NUM_FRAMES, "size": SIZE, "world_multiple": 1} | options
    return data.ShardLoader(reader, Frames(), **options)  # type: ignore[arg-type]


def seconds(act: Callable[[], Any]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def ratio(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> float:
    """Median time of the first over that of the second; they run in turn, the first pair does not count."""
    pairs = [(seconds(first), seconds(second)) for _ in range(repeats + 1)][1:]
    return statistics.median(one for one, _ in pairs) / statistics.median(two for _, two in pairs)


def decode_rows(reader: data.RecordReader, rows: range) -> None:
    """Decode rows and nothing else."""
    torch.set_num_threads(1)
    clips = ClipReader(reader, NUM_FRAMES, SIZE)
    for row in rows:
        clips.clip(row, {"media": {}})


def decode_in_processes(reader: data.RecordReader) -> None:
    """Decode all rows in as many processes as the loader has workers."""
    context = multiprocessing.get_context("fork")
    rows = [range(number, len(reader), WORKERS) for number in range(WORKERS)]
    processes = [context.Process(target=decode_rows, args=(reader, part)) for part in rows]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def naive_frames(clip: bytes) -> list[Any]:
    """16 uniform frames, one seek for each: what a straightforward loop does."""
    with av.open(io.BytesIO(clip)) as container:
        stream = container.streams.best("video")
        assert stream is not None and stream.time_base is not None
        stream.thread_type, stream.thread_count = "SLICE", 1
        frames = []
        for position in np.linspace(0, stream.frames - 1, NUM_FRAMES).round():
            wanted = round(float(position / stream.average_rate) / stream.time_base)
            container.seek(wanted, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts >= wanted)
            short = min(frame.width, frame.height)
            size = {"width": frame.width * SIZE // short, "height": frame.height * SIZE // short}
            frames.append(frame.reformat(**size, format="rgb24", interpolation="AREA").to_ndarray())
    return frames


def torchcodec_ratio(clips: list[bytes], repeats: int) -> float | None:
    """Our time over that of torchcodec alone, which resizes by itself; None where it cannot be imported."""
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError, OSError):
        return None

    def theirs(clip: bytes) -> None:
        decoder = VideoDecoder(clip, num_ffmpeg_threads=1, transforms=[Resize((SIZE, WIDTH * SIZE // HEIGHT))])
        decoder.get_frames_at(np.linspace(0, len(decoder) - 1, NUM_FRAMES, dtype=int).tolist())

    return ratio(
        lambda: [data.decode(clip, NUM_FRAMES, size=SIZE) for clip in clips],
        lambda: [theirs(clip) for clip in clips],
        repeats,
    )


def resume_ratio(reader: data.RecordReader, repeats: int) -> float:
    """First batch at 90 % of an epoch against the first of a fresh start; every clip costs the same."""
    loader = make_loader(reader)
    fresh = loader.state_dict()
    late = fresh | {"cursor": int(0.9 * len(loader)), "done": int(0.9 * len(loader))}

    def first(state: dict[str, Any]) -> None:
        loader.load_state_dict(state)
        batches = iter(loader)
        next(batches)
        del batches

    return ratio(lambda: first(late), lambda: first(fresh), repeats)


def worker_growth(reader: data.RecordReader, warm: int) -> float:
    """MB by which a worker grows from its `warm`-th clip to its last."""
    resident = []
    for number, _ in enumerate(make_loader(reader, num_workers=1, size=64)):
        if number >= warm:
            (worker,) = multiprocessing.active_children()
            pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    tenth = len(resident) // 10
    return statistics.median(resident[-tenth:]) - statistics.median(resident[:tenth])


def plan_once(answer: Any) -> None:
    """Plan an epoch; send seconds and MB of memory above what the process had."""
    draw = np.random.default_rng(0)
    lengths = Lengths(draw.integers(500, 4000, PLANNED), draw.integers(50, 800, PLANNED))
    shards = np.arange(PLANNED) // 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    plan = data.EpochPlan(PLANNED, 8, shards=shards, tokens_per_batch=32_768, lengths=lengths)
    plan.batches(1)
    took = time.perf_counter() - start
    answer.send((took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def plan(repeats: int) -> tuple[float, float]:
    """Median seconds and MB of planning, each time in a process of its own."""
    # spawned: a forked one would begin with this process's peak, and count nothing below it
    context = multiprocessing.get_context("spawn")
    measured = []
    for _ in range(repeats):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=plan_once, args=(theirs,))
        process.start()
        measured.append(ours.recv())
        process.join()
    return statistics.median(took for took, _ in measured), statistics.median(mb for _, mb in measured)


def measure(repeats: int, num_clips: int, soaked: int) -> dict[str, float | None]:
    """All numbers."""
    torch.set_num_threads(1)
    plan_seconds, plan_mb = plan(repeats)
    with tempfile.TemporaryDirectory() as name:
        clips = [make_clip(seed) for seed in range(num_clips)]
        reader = make_reader(Path(name) / "clips", clips, 6 * num_clips)
        small = [make_clip(seed, 128, 72, 60) for seed in range(num_clips)]
        many = make_reader(Path(name) / "small", small, 20_000)
        soak = data.RecordReader(many.manifest, data.Overlay(tuple(many.rows)), soaked)
        loader = make_loader(reader, num_workers=WORKERS)
        return {
            "loader_fraction_of_decoder": ratio(lambda: decode_in_processes(reader), lambda: list(loader), repeats),
            "seek_speedup": ratio(
                lambda: [naive_frames(clip) for clip in clips],
                lambda: [data.decode(clip, NUM_FRAMES, size=SIZE) for clip in clips],
                repeats,
            ),
            "torchcodec_ratio": torchcodec_ratio(clips, repeats),
            "resume_ratio": resume_ratio(many, 4 * repeats),
            "worker_growth_mb": worker_growth(soak, min(500, soaked // 2)),
            "plan_seconds": plan_seconds,
            "plan_mb": plan_mb,
        }


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--soaked", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.repeats, args.clips, args.soaked)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:28s} {'-' if value is None else format(value, '.2f')}")


if __name__ == "__main__":
    main()
