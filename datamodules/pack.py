"""Make shards from a folder of videos, and an overlay from files of annotations where there are any."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from .container import AUDIO_EXTENSIONS, VIDEO_EXTENSIONS
from .manifest import key_of, list_videos
from .names import MediaNames
from .overlay import write_overlay
from .probe import probe
from .quarantine import BadSample, Quarantine, forget
from .schemas import read_annotations
from .writer import ShardWriter

OVERLAY_NAME = "records.jsonl"


@dataclass(frozen=True)
class Packed:
    """What :func:`pack` made.

    Attributes:
        overlay: Path of the overlay, one row for each annotation whose video is there; None without annotations.
        num_videos: Videos in the shards.
        num_records: Rows of the overlay.
        num_quarantined: Videos and annotations that this call put in quarantine.

    """

    overlay: Path | None
    num_videos: int
    num_records: int
    num_quarantined: int


def pack(
    videos: str | Path,
    annotations: str | Path | Sequence[str | Path] | None,
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
        annotations: JSON or JSONL files of any registered format (commas, globs and ranks' shards as for
            :func:`lit_vpo.datamodules.schemas.find_files`); they name a video, and the sound that belongs to it, by the
            path below ``videos`` or by the base name. None packs the videos alone.
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
    files = [annotations] if isinstance(annotations, str | Path) else list(annotations or ())
    # annotations first: a bad row should stop before gigabytes are copied
    read = [read_annotations(file) for file in files]
    keys = _keys(root)
    names = MediaNames(keys, rename)
    sounds = _Sounds(root, rename)
    for annotation in read:
        sounds.choose(annotation.records, names)
    with ShardWriter(out, prefix, max_samples) as writer:
        # no shards yet: what an earlier call left there speaks of a call that failed
        forget(out, "pack")
        quarantine = Quarantine(out, "pack")
        packed = _write_videos(writer, root, keys, sounds, quarantine)
        for place, reason in (line for annotation in read for line in annotation.left_out):
            quarantine.add("", "", reason, place)
        rows = [
            row
            for annotation in read
            for place, record in zip(annotation.places, annotation.records, strict=True)
            if (row := _row(record, names, sounds, packed, quarantine, place)) is not None
        ]
        if not (rows if files else packed):
            what = "no annotation leads to a usable video" if files else f"no video of {root} can be used"
            raise ValueError(f"{what}: {'; '.join(quarantine.reasons()[:3])}")
    overlay = Path(out) / OVERLAY_NAME if files else None
    if overlay is not None:
        write_overlay(overlay, rows)
    made = Packed(overlay, len(packed), len(rows), len(quarantine))
    _report(made, quarantine)
    return made


def _report(made: Packed, quarantine: Quarantine) -> None:
    console = Console()
    records = "" if made.overlay is None else f" and {made.num_records} records: {escape(str(made.overlay))}"
    console.print(f"{made.num_videos} videos{records}", soft_wrap=True)
    for line in quarantine.added:
        console.print(f"[red]quarantined[/] {escape(line['id'])}: {escape(line['reason'])}", soft_wrap=True)


def _keys(root: Path) -> dict[str, str]:
    """Key of each video, by its path below the folder."""
    keys: dict[str, str] = {}
    owner: dict[str, Path] = {}
    for path in list_videos(root):
        key = key_of(path.relative_to(root))
        if key in owner:
            raise ValueError(f"{owner[key]} and {path} would both have the key {key!r}; rename one of them")
        owner[key], keys[path.relative_to(root).as_posix()] = path, key
    if not keys:
        raise ValueError(f"{root} holds no video ({', '.join(VIDEO_EXTENSIONS)})")
    return keys


class _Sounds:
    """The sound that goes into a video's sample: the first that an annotation names beside it."""

    def __init__(self, root: Path, rename: tuple[str, str] | None) -> None:
        files = (path for path in root.rglob("*") if path.suffix[1:].lower() in AUDIO_EXTENSIONS and path.is_file())
        self.names = MediaNames((path.relative_to(root).as_posix() for path in files), rename)
        self.of: dict[str, str] = {}

    def choose(self, records: list[dict[str, Any]], names: MediaNames) -> None:
        for media in (record.get("media") or {} for record in records):
            if media.get("video") and media.get("audio"):
                try:
                    self.of.setdefault(names.find(media["video"]), self.names.find(media["audio"]))
                except BadSample:
                    continue  # the record that names it meets the same fault, and goes to the quarantine

    def check(self, video: str, audio: str) -> str:
        found = self.names.find(audio)
        if self.of[video] != found:
            raise BadSample(f"its video is packed with the sound {self.of[video]}, so {found} has no place")
        return found


def _write_videos(
    writer: ShardWriter, root: Path, keys: dict[str, str], sounds: _Sounds, quarantine: Quarantine
) -> dict[str, str]:
    """Write the videos that open; returns their keys by path."""
    written: dict[str, str] = {}
    for name, key in track(keys.items(), description="packing videos", total=len(keys)):
        payload = (root / name).read_bytes()
        try:
            probe(payload)
        except BadSample as error:
            quarantine.add(name, key, str(error))
            continue
        record = {"id": key, "media": {"video": name}, "meta": {"sha256": hashlib.sha256(payload).hexdigest()}}
        writer.write(key, record, payload, Path(name).suffix[1:], root / sounds.of[name] if name in sounds.of else None)
        written[name] = key
    return written


def _row(
    record: dict[str, Any],
    names: MediaNames,
    sounds: _Sounds,
    keys: dict[str, str],
    quarantine: Quarantine,
    where: str,
) -> dict[str, Any] | None:
    """The overlay's row of one record; None, and a line in the quarantine, where its video is not there."""
    media = record.get("media") or {}
    name = media.get("video") or media.get("frames_dir")
    try:
        if not name:
            raise BadSample("the annotation names no video")
        path = names.find(name) if media.get("video") else names.find_folder(name)
        if path not in keys:
            raise BadSample(f"its video {path} is in quarantine")
        heard = {"audio": sounds.check(path, media["audio"])} if media.get("audio") else {}
    except BadSample as error:
        quarantine.add("", key_of(Path(names.renamed(name))) if name else "", str(error), where)
        return None
    kept = {field: value for field, value in media.items() if field != "frames_dir"}
    return {"key": keys[path], **record, "media": {**kept, "video": path, **heard}}
