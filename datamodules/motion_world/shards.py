"""A split of MotionWorld on disk: shards, manifest and the overlays of its tasks."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rich.progress import track

from ..manifest import Manifest
from ..overlay import Overlay
from ..writer import ShardWriter
from .render import encode
from .scene import SPLITS, Scene, Split, sample_scene, scene_of
from .tasks import MIXES, base_record, rows


def write_world(
    out: str | Path,
    split: Split = "train",
    num: int = 1000,
    seed: int = 0,
    mixes: Sequence[str] = (),
    rows_per_clip: int = 1,
    size: int = 64,
    fps: int = 8,
    num_workers: int = 0,
) -> None:
    """Writes `num` clips of a split as shards, and an overlay `<mix>.jsonl` for each named mix of tasks.

    Everything is a function of (split, seed, index, size, fps): written again, the files are the same byte for byte.

    Args:
        out: A folder that holds no shards yet.
        split: train, validation or test; test alone has the held-out combinations.
        num: Clips.
        seed: Another seed gives other clips of the same split.
        mixes: Names from `tasks.MIXES`.
        rows_per_clip: Overlay rows per clip and mix.
        size: Frame side in pixels.
        fps: Frames per second.
        num_workers: Processes that render and encode; 0 does it in this one.

    Raises:
        ValueError: If an argument is out of range, a name is unknown or the folder already holds shards.
    """
    if split not in SPLITS or num < 1 or rows_per_clip < 1:
        raise ValueError(
            f"need a split of {', '.join(SPLITS)}, num >= 1 and rows_per_clip >= 1; got {split}, {num}, {rows_per_clip}"
        )
    _check_mixes(mixes)
    out = Path(out)
    clips = encoded(partial(_clip, split, seed, size, fps), num, num_workers)
    with ShardWriter(out, prefix=split) as writer:
        for index, video in enumerate(track(clips, description=f"{split} clips", total=num)):
            scene = sample_scene(split, seed, index)
            writer.write(scene.key, base_record(scene), video)
    _write_mixes(out, [sample_scene(split, seed, index) for index in range(num)], mixes, rows_per_clip)


def write_tasks(out: str | Path, mixes: Sequence[str], rows_per_clip: int = 1) -> None:
    """Writes overlays for clips that are there already: the files that `write_world` writes beside new ones.

    Args:
        out: A folder of MotionWorld's clips.
        mixes: Names from `tasks.MIXES`, at least one.
        rows_per_clip: Overlay rows per clip and mix.

    Raises:
        ValueError: If an argument is out of range, a name is unknown or a clip is not one of MotionWorld.
    """
    if not mixes or rows_per_clip < 1:
        raise ValueError(f"need a mix of {', '.join(MIXES)} and rows_per_clip >= 1; got {mixes}, {rows_per_clip}")
    _check_mixes(mixes)
    scenes = [scene_of(sample.key) for sample in Manifest.load(out).samples]
    _write_mixes(Path(out), scenes, mixes, rows_per_clip)


def _check_mixes(mixes: Sequence[str]) -> None:
    if unknown := set(mixes) - set(MIXES):
        raise ValueError(f"unknown mixes {sorted(unknown)}; known: {', '.join(MIXES)}")


def _write_mixes(out: Path, scenes: Sequence[Scene], mixes: Sequence[str], rows_per_clip: int) -> None:
    for name in mixes:
        lines = [row for scene in track(scenes, name) for row in rows(scene, MIXES[name], rows_per_clip, name)]
        Overlay(tuple(lines)).save(out / f"{name}.jsonl")


def _clip(split: Split, seed: int, size: int, fps: int, index: int) -> bytes:
    return encode(sample_scene(split, seed, index), size, fps)


def encoded(make: "partial[bytes]", num: int, num_workers: int) -> Iterator[bytes]:
    """Files 0 to num - 1 in order, by so many processes; 0 makes them in this one."""
    if num_workers == 0:
        yield from map(make, range(num))
        return
    with ProcessPoolExecutor(num_workers) as pool:
        yield from pool.map(make, range(num), chunksize=16)
