"""Videos of several shots whose boundaries are known: clips of different scenes, one after the other."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from ..writer import ShardWriter
from .render import SAMPLE_RATE, check_pictures, encode_pictures, render, sound
from .scene import SPLITS, Scene, Split, sample_scene
from .shards import encoded
from .tasks import base_record

# gray levels; scenes are all dark: a join changes as much as an act, and with this at least half as much again
BRIGHTER = 80


def write_joined(
    out: str | Path,
    split: Split = "train",
    num: int = 100,
    seed: int = 0,
    num_shots: int = 6,
    size: int = 64,
    fps: int = 8,
    num_workers: int = 0,
) -> None:
    """Writes `num` videos of `num_shots` shots each as shards; a function of the arguments, byte for byte.

    Args:
        out: A folder that holds no shards yet.
        split: train, validation or test.
        num: Videos.
        seed: Another seed gives other scenes.
        num_shots: Of each video. With 3 or more, every second video shows its first shot again.
        size: Frame side in pixels.
        fps: Frames per second.
        num_workers: Processes that render and encode; 0 does it in this one.

    Raises:
        ValueError: If an argument is out of range or the folder already holds shards.
    """
    if split not in SPLITS or num < 1 or num_shots < 2:
        raise ValueError(
            f"need a split of {', '.join(SPLITS)}, num >= 1 and at least 2 shots; got {split}, {num}, {num_shots}"
        )
    check_pictures(size, fps)
    videos = encoded(partial(_video, split, seed, num_shots, size, fps), num, num_workers)
    with ShardWriter(Path(out), prefix=f"{split}-joined") as writer:
        for index, video in enumerate(track(videos, f"{split} videos", total=num)):
            record = joined_record(split, seed, index, num_shots, fps)
            writer.write(record["key"], record, video)


def scenes_of(split: Split, seed: int, index: int, num_shots: int) -> list[Scene]:
    """The scenes of a video in their order; every second one is brighter, as between two places."""
    scenes = [sample_scene(split, seed, index * num_shots + place) for place in range(num_shots)]
    scenes = [replace(each, brightness=each.brightness + BRIGHTER * (place % 2)) for place, each in enumerate(scenes)]
    if index % 2 and num_shots > 2:
        scenes[(num_shots - 1) // 2 * 2] = scenes[0]  # an even place: its neighbours are of the other brightness
    return scenes


def joined_record(split: Split, seed: int, index: int, num_shots: int, fps: int = 8) -> dict[str, Any]:
    """The record of a video: captions and events of its shots in time, and in `meta` the truth about them.

    `meta.shots` holds [first frame, frame after the last) of each, `meta.scenes` the keys of their clips.
    """
    scenes = scenes_of(split, seed, index, num_shots)
    bounds = _bounds(scenes, fps)
    records = [base_record(scene) for scene in scenes]
    events = [
        {**event, **{name: round(event[name] + start / fps, 3) for name in ("start_s", "end_s")}}
        for (start, _), record in zip(bounds, records, strict=True)
        for event in record["events"]
    ]
    key = f"joined-{split}-{seed}-{index:06d}"
    truth = {"shots": bounds, "scenes": [scene.key for scene in scenes], "duration_s": bounds[-1][1] / fps}
    return {
        "id": key,
        "key": key,
        "prompt": records[0]["prompt"],
        "ground_truth": " ".join(record["ground_truth"] for record in records),
        "mode": "sft",
        "events": events,
        "meta": {"task": "caption", "scope": "video", **truth},
    }


def _bounds(scenes: Sequence[Scene], fps: int) -> list[tuple[int, int]]:
    lengths = (round(scene.duration_s * fps) for scene in scenes)
    return list(pairwise(accumulate(lengths, initial=0)))


def _video(split: Split, seed: int, num_shots: int, size: int, fps: int, index: int) -> bytes:
    scenes = scenes_of(split, seed, index, num_shots)
    pictures = [render(scene, size, fps) for scene in scenes]
    tracks = [
        _fitted(sound(scene), len(shown) * SAMPLE_RATE // fps) for scene, shown in zip(scenes, pictures, strict=True)
    ]
    return encode_pictures(np.concatenate(pictures), np.concatenate(tracks), fps)


def _fitted(samples: Any, length: int) -> Any:
    """Sound as long as its shot's whole frames."""
    return np.pad(samples, (0, max(0, length - len(samples))))[:length]
