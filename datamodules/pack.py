"""Make shards and an overlay from a folder of videos and files of annotations."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from .manifest import key_of, list_videos
from .overlay import write_overlay
from .quarantine import BadSample, Quarantine, forget
from .schemas import read_annotations
from .video import VIDEO_EXTENSIONS, probe
from .writer import ShardWriter

OVERLAY_NAME = "records.jsonl"


@dataclass(frozen=True)
class Packed:
    """What :func:`pack` made.

    Attributes:
        overlay: Path of the overlay, one row for each annotation whose video is there.
        num_videos: Videos in the shards.
        num_records: Rows of the overlay.
        num_quarantined: Videos and annotations that this call put in quarantine.
        num_ignored_audios: Audio files that the annotations name beside the videos.

    """

    overlay: Path
    num_videos: int
    num_records: int
    num_quarantined: int
    num_ignored_audios: int


def pack(
    videos: str | Path,
    annotations: str | Path | Sequence[str | Path],
    out: str | Path,
    rename: tuple[str, str] | None = None,
    prefix: str = "shard",
    max_samples: int = 1000,
) -> Packed:
    """Pack every video of a folder into shards, and every annotation into an overlay beside them.

    To ``out/quarantine.jsonl`` go: videos that do not open, and annotations that name no video (text alone has no place
    beside videos), a name that leads to no file, or a video that is in quarantine itself.

    Args:
        videos: Folder of videos (subfolders too).
        annotations: JSON or JSONL files of any registered format; they name a video by its path below ``videos`` or by
            its base name.
        out: Folder for shards, manifest, ``records.jsonl`` and quarantine.
        rename: (old, new): names that begin with old begin with new instead, before they are looked up.
        prefix: First part of the shards' names.
        max_samples: Samples of a shard.

    Raises:
        ValueError: A missing folder or file, a bad annotation, two videos with one key, or nothing that can be used.

    """
    root = Path(videos)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    files = [annotations] if isinstance(annotations, str | Path) else list(annotations)
    # annotations first: a bad row should stop before gigabytes are copied
    read = [(Path(file), read_annotations(file)) for file in files]
    keys = _keys(root)
    with ShardWriter(out, prefix, max_samples) as writer:
        # no shards yet: what an earlier call left there speaks of a call that failed
        forget(out, "pack")
        quarantine = Quarantine(out, "pack")
        packed = _write_videos(writer, root, keys, quarantine)
        names = _Names(root, keys, rename)
        rows = [
            row
            for file, annotation in read
            for number, record in zip(annotation.row_numbers, annotation.records, strict=True)
            if (row := _row(record, names, packed, quarantine, f"{file.name}:{number}")) is not None
        ]
        if not rows:
            raise ValueError(f"no annotation leads to a usable video: {'; '.join(quarantine.reasons()[:3])}")
    overlay = Path(out) / OVERLAY_NAME
    write_overlay(overlay, rows)
    audios = sum(annotation.num_ignored_audios for _, annotation in read)
    made = Packed(overlay, len(packed), len(rows), len(quarantine), audios)
    _report(made, quarantine)
    return made


def _report(made: Packed, quarantine: Quarantine) -> None:
    console = Console()
    console.print(
        f"{made.num_videos} videos and {made.num_records} records: {escape(str(made.overlay))}", soft_wrap=True
    )
    if made.num_ignored_audios:
        console.print(f"{made.num_ignored_audios} audio files named beside videos were left out")
    for line in quarantine.added:
        console.print(f"[red]quarantined[/] {escape(line['id'])}: {escape(line['reason'])}", soft_wrap=True)


def _keys(root: Path) -> dict[Path, str]:
    """Key of each video, from its path below the folder."""
    keys: dict[Path, str] = {}
    owner: dict[str, Path] = {}
    for path in list_videos(root):
        key = key_of(path.relative_to(root))
        if key in owner:
            raise ValueError(f"{owner[key]} and {path} would both have the key {key!r}; rename one of them")
        owner[key], keys[path] = path, key
    if not keys:
        raise ValueError(f"{root} holds no video ({', '.join(VIDEO_EXTENSIONS)})")
    return keys


def _write_videos(writer: ShardWriter, root: Path, keys: dict[Path, str], quarantine: Quarantine) -> set[str]:
    """Write the videos that open; returns their keys."""
    written: set[str] = set()
    for path, key in track(keys.items(), description="packing videos", total=len(keys)):
        payload = path.read_bytes()
        try:
            probe(payload)
        except BadSample as error:
            quarantine.add(path.relative_to(root).as_posix(), key, str(error))
            continue
        meta = {"sha256": hashlib.sha256(payload).hexdigest()}
        record = {"id": key, "media": {"video": path.relative_to(root).as_posix()}, "meta": meta}
        writer.write(key, record, payload, path.suffix[1:])
        written.add(key)
    return written


class _Names:
    """Look a video up by the name that an annotation gives it."""

    def __init__(self, root: Path, keys: dict[Path, str], rename: tuple[str, str] | None) -> None:
        self.keys = {path.relative_to(root).as_posix(): key for path, key in keys.items()}
        self.old, self.new = rename or ("", "")
        self.by_base: dict[str, list[str]] = {}
        for name in self.keys:
            self.by_base.setdefault(Path(name).name, []).append(name)

    def renamed(self, name: str) -> str:
        return self.new + name.removeprefix(self.old) if name.startswith(self.old) else name

    def find(self, name: str) -> tuple[str, str]:
        """(path below the folder, key).

        Raises:
            BadSample: No such video, or several with this base name.

        """
        name = self.renamed(name).removeprefix("./")
        found = [name] if name in self.keys else self.by_base.get(Path(name).name, [])
        if not found:
            raise BadSample(f"no video {name!r} in the folder (a difference of names is named with rename)")
        if len(found) > 1:
            raise BadSample(f"{name!r} may be any of {', '.join(found)}; name it by its path below the folder")
        return found[0], self.keys[found[0]]


def _row(
    record: dict[str, Any], names: _Names, packed: set[str], quarantine: Quarantine, where: str
) -> dict[str, Any] | None:
    """The overlay's row of one record; None, and a line in the quarantine, where its video is not there."""
    name = (record.get("media") or {}).get("video")
    try:
        if not name:
            raise BadSample("the annotation names no video")
        path, key = names.find(name)
        if key not in packed:
            raise BadSample(f"its video {path} is in quarantine")
    except BadSample as error:
        quarantine.add("", key_of(Path(names.renamed(name))) if name else "", str(error), where)
        return None
    return {"key": key, **record, "media": {**record["media"], "video": path}}
