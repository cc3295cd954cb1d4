"""What ``python -m lit_vpo data`` does: pack, index, and check what a training run would meet."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, track

from . import manifest as manifests
from .loader import read_clip
from .manifest import Manifest
from .overlay import Overlay
from .pack import Packed, pack
from .quarantine import BadSample, read_quarantine
from .reader import RecordReader, read_member
from .responses import Kind, check_texts
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
    folder: str | Path, overlay: str | Path | None = None, num_frames: int = 16, size: int | None = None
) -> list[Problem]:
    """Read, verify and decode every sample, print what one becomes, and list every problem.

    Args:
        folder: Of shards or loose videos, indexed.
        overlay: Records to check against it; None checks each sample's own json where it has a prompt.
        num_frames: Frames to decode of each clip, the first and the last among them.
        size: Short side of the frames; None keeps the video's.

    Returns:
        The problems, none if all is well. Samples in the folder's quarantine count as problems.

    """
    console = Console()
    try:
        reader = RecordReader(Manifest.load(folder), Overlay.load(overlay) if overlay else None)
    except ValueError as error:
        problems = [Problem("", "", str(error))]
    else:
        known = [Problem(line["shard"], line["id"], line["reason"]) for line in read_quarantine(folder)]
        problems = known + list(_row_problems(reader, num_frames, size, console))
        console.print(f"{len(reader.manifest.samples)} videos, {len(reader)} records, {len(problems)} problems")
    for problem in problems:
        console.print(f"[red]problem[/] {escape(f'{problem.key} ({problem.shard}): {problem.reason}')}", soft_wrap=True)
    return problems


def kind_of(record: dict[str, object]) -> Kind:
    """What a record can be trained or scored as, from the fields it has."""
    meta = record.get("meta")
    if isinstance(meta, dict) and meta.get("options"):
        return "question"
    if "chosen" in record or "rejected" in record:
        return "preference"
    return "instruction" if "ground_truth" in record else "prompt"


def _row_problems(reader: RecordReader, num_frames: int, size: int | None, console: Console) -> Iterator[Problem]:
    verified = set[tuple[object, ...]]()
    shown = False
    for row in track(range(len(reader)), description="checking", console=console, transient=True):
        sample = reader.sample(row)
        try:
            record = reader.record(row)
            # many rows may look at one clip: each view of it is decoded once (and text alone looks at none)
            for seen in _views(record):
                media = seen["media"]
                alone = media.get("video", "") is None
                view = (sample.key, alone, media.get("start_s"), media.get("end_s"), str(media.get("frame_order")))
                if view not in verified:
                    verified.add(view)
                    clip = read_clip(reader, row, seen, num_frames_of(seen, num_frames), size)
                    if not shown and clip is not None:
                        shown = True
                        console.print(escape(_describe(record, clip, sample.shard)), soft_wrap=True)
            if "prompt" in record:
                check_texts(record, kind_of(record), num_negatives=1 + len(record.get("negatives") or []))
        except BadSample as error:
            yield Problem(sample.shard, reader.rows[row]["id"], str(error))
    yield from _unread_members(reader)


def _views(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record as its own media and those of its negatives show it."""
    media = record["media"]
    others = [{**media, **(negative.get("media") or {})} for negative in record.get("negatives") or []]
    return [{**record, "media": each} for each in (media, *others)]


def num_frames_of(record: dict[str, object], num_frames: int) -> int:
    """Frames that a record's ``frame_order`` was made for; ``num_frames`` where it has none."""
    media = record.get("media")
    order = media.get("frame_order") if isinstance(media, dict) else None
    return len(order) if order else num_frames


def _unread_members(reader: RecordReader) -> Iterator[Problem]:
    """Samples that no record speaks of are verified by their checksums."""
    spoken = {row["key"] for row in reader.rows}
    for sample in reader.manifest.samples:
        if sample.key not in spoken:
            try:
                for extension in sample.members:
                    read_member(reader.manifest.root, sample, extension)
            except BadSample as error:
                yield Problem(sample.shard, sample.key, str(error))


def _describe(record: dict[str, object], clip: Clip, shard: str) -> str:
    times = ", ".join(f"{time:.2f}" for time in clip.timestamps_s)
    fields = {name: value for name, value in record.items() if name in ("prompt", "chosen", "rejected", "ground_truth")}
    lines = [
        f"{record['id']} of {shard}",
        f"  frames {tuple(clip.frames.shape)} uint8 at {clip.fps:.2f} frames/s",
        f"  seconds {times}",
    ]
    return "\n".join(lines + [f"  {name}: {str(value)[:200]}" for name, value in fields.items()])
