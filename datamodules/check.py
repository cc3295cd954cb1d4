"""What ``python -m lit_vpo data`` does: pack, index, and check what a training run would meet."""

import json
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, track

from . import manifest as manifests
from .clips import ClipReader
from .container import Limits
from .manifest import Manifest, Sample
from .mix import Mix
from .pack import Packed, pack
from .probe import check_ends
from .quarantine import BadSample, read_quarantine
from .reader import RecordReader, read_member
from .responses import Kind, check_texts
from .tars import tar_samples
from .video import Clip

__all__ = ["Packed", "Problem", "check", "index", "kind_of", "pack"]


@dataclass(frozen=True)
class Problem:
    """Something that a run would stumble over."""

    shard: str
    key: str
    reason: str


def index(folder: str | Path) -> Manifest:
    """Build and save a folder's manifest, with a progress line.

    Raises:
        ValueError: As :func:`lit_vpo.datamodules.manifest.index`.

    """
    with Progress(*Progress.get_default_columns(), transient=True) as progress:
        task = progress.add_task("indexing", total=None)
        made = manifests.index(
            folder, lambda key: progress.update(task, advance=1, description=f"indexing {escape(key)}")
        )
    lost = len(read_quarantine(folder))
    Console().print(f"{len(made.samples)} videos indexed, {lost} in quarantine, manifest {made.hash}")
    return made


def check(
    folder: str | Path,
    overlay: str | Path | None = None,
    num_frames: int = 16,
    size: int | None = None,
    limits: Limits | None = None,
) -> list[Problem]:
    """Verify every shard, byte, clip and record, print what one becomes, and list every problem.

    Shards are walked again: their samples, members and places must be those of the manifest. Every member's crc32 is
    compared, the first and last group of pictures of every clip decoded, and each record's own view of its clip.

    Args:
        folder: Of shards or loose videos, indexed.
        overlay: Records to check against it: a file, a comma list, a glob, or the name of parts that ranks wrote; None
            checks each sample's own json where it has a prompt.
        num_frames: Frames to decode of each view, the first and the last among them.
        size: Short side of the frames; None keeps the video's.
        limits: What decoding one clip may cost; None takes the defaults.

    Returns:
        The problems, none if all is well. Samples in the folder's quarantine count as problems.

    """
    console, limits = Console(), limits or Limits()
    try:
        reader = RecordReader(Manifest.load(folder), Mix.load(str(overlay)).overlay if overlay else None)
    except ValueError as error:
        problems = [Problem("", "", str(error))]
    else:
        problems = [Problem(line["shard"], line["id"], line["reason"]) for line in read_quarantine(folder)]
        problems += shard_problems(reader.manifest)
        bad = {problem.key: problem for problem in _clip_problems(reader, limits, console)}
        problems += bad.values()
        problems += _row_problems(reader, bad, partial(ClipReader, size=size, limits=limits), num_frames, console)
        console.print(f"{len(reader.manifest.samples)} videos, {len(reader)} records, {len(problems)} problems")
    for problem in problems:
        console.print(f"[red]problem[/] {escape(f'{problem.key} ({problem.shard}): {problem.reason}')}", soft_wrap=True)
    return problems


def shard_problems(manifest: Manifest) -> Iterator[Problem]:
    """What the headers of a folder's shards say otherwise than its manifest."""
    quarantined = {line["key"] for line in read_quarantine(manifest.root)}
    expected: dict[str, dict[str, Sample]] = {path.name: {} for path in sorted(manifest.root.glob("*.tar"))}
    for sample in manifest.samples:
        expected.setdefault(sample.shard, {})[sample.key] = sample
    for shard, samples in expected.items():
        if not shard.endswith(".tar"):
            continue
        try:
            found = {sample.key: sample for sample in tar_samples(manifest.root / shard)}
        except ValueError as error:
            yield Problem(shard, "", str(error))
            continue
        for key in sorted(samples.keys() - found.keys()):
            yield Problem(shard, key, "the manifest has it, the shard has not")
        for key in sorted(found.keys() - samples.keys() - quarantined):
            yield Problem(shard, key, "the shard has it, the manifest has not; index the folder again")
        for key, sample in samples.items():
            places = {extension: place[:2] for extension, place in sample.members.items()}
            if key in found and found[key].members != places:
                yield Problem(shard, key, "its members lie elsewhere than the manifest says; index the folder again")


def _clip_problems(reader: RecordReader, limits: Limits, console: Console) -> Iterator[Problem]:
    """Every sample's bytes against their checksums, and the ends of its clip."""
    for sample in track(reader.manifest.samples, description="checking clips", console=console, transient=True):
        try:
            for extension in sample.members:
                payload = read_member(reader.store, sample, extension)
                if extension == sample.video_extension:
                    check_ends(payload, limits)
        except BadSample as error:
            yield Problem(sample.shard, sample.key, str(error))


def kind_of(record: dict[str, object]) -> Kind:
    """What a record can be trained or scored as, from the fields it has."""
    meta = record.get("meta")
    if isinstance(meta, dict) and meta.get("options"):
        return "question"
    if "chosen" in record or "rejected" in record:
        return "preference"
    return "instruction" if "ground_truth" in record else "prompt"


def _row_problems(
    reader: RecordReader,
    bad: Container[str],
    clips: Callable[[RecordReader, int], ClipReader],
    num_frames: int,
    console: Console,
) -> Iterator[Problem]:
    verified = set[str]()
    shown = False
    for row in track(range(len(reader)), description="checking records", console=console, transient=True):
        sample = reader.sample(row)
        if sample.key in bad:
            continue
        try:
            record = reader.record(row)
            # many rows may look at one clip: each view of it is decoded once (and text alone looks at none)
            for seen in _views(record):
                view = f"{sample.key} {json.dumps(seen['media'], sort_keys=True)}"
                if view not in verified:
                    verified.add(view)
                    clip = clips(reader, num_frames_of(seen, num_frames)).clip(row, seen)
                    if not shown and clip is not None:
                        shown = True
                        console.print(escape(_describe(record, clip, sample.shard)), soft_wrap=True)
            if "prompt" in record:
                check_texts(record, kind_of(record), num_negatives=1 + len(record.get("negatives") or []))
        except BadSample as error:
            yield Problem(sample.shard, reader.rows[row]["id"], str(error))


def _views(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record as its own media show it, then as each response with a view of its own does."""
    views = list((record.get("views") or {}).values())
    views += [negative.get("media") or {} for negative in record.get("negatives") or []]
    return [{**record, "media": {**record["media"], **view}} for view in ({}, *views)]


def num_frames_of(record: dict[str, object], num_frames: int) -> int:
    """Frames that a record's ``frame_order`` or ``splice`` was made for; ``num_frames`` where it has neither."""
    media: Any = record.get("media")
    media = media if isinstance(media, dict) else {}
    if order := media.get("frame_order"):
        return len(order)
    positions: list[int] = (media.get("splice") or {}).get("positions", [])
    return max([num_frames, *(position + 1 for position in positions)])


def _describe(record: dict[str, object], clip: Clip, shard: str) -> str:
    times = ", ".join(f"{time:.2f}" for time in clip.timestamps_s)
    fields = {name: value for name, value in record.items() if name in ("prompt", "chosen", "rejected", "ground_truth")}
    lines = [
        f"{record['id']} of {shard}",
        f"  frames {tuple(clip.frames.shape)} uint8 at {clip.fps:.2f} frames/s",
        f"  seconds {times}",
    ]
    return "\n".join(lines + [f"  {name}: {str(value)[:200]}" for name, value in fields.items()])
