"""Read records and video bytes: the manifest says where, the overlay what is asked of them."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from .fields import check_fields
from .manifest import Manifest, Sample
from .overlay import Overlay
from .quarantine import BadSample


def read_member(root: Path, sample: Sample, extension: str) -> bytes:
    """Bytes of one member, checked against its crc32.

    Args:
        root: The manifest's folder.
        sample: Whose member.
        extension: Which member.

    Raises:
        BadSample: The file is missing, short, or its bytes changed since it was indexed.

    """
    offset, size, checksum = sample.members[extension]
    path = root / sample.shard
    if not sample.shard.endswith(".tar"):
        path = path.with_suffix(f".{extension}")
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise BadSample(f"cannot open the file: {error.strerror}") from error
    try:
        payload = _read_at(descriptor, offset, size)
    finally:
        os.close(descriptor)
    if len(payload) < size:
        raise BadSample(f"member .{extension} is cut: {len(payload)} of {size} bytes")
    if zlib.crc32(payload) != checksum:
        raise BadSample(f"member .{extension} changed since it was indexed (crc32)")
    return payload


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    # one pread returns at most 2 GiB, and less on some network file systems
    pieces, done = [], 0
    while done < size and (piece := os.pread(descriptor, size - done, offset + done)):
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces) if len(pieces) != 1 else pieces[0]


class RecordReader:
    """The rows of a source in order: one for each overlay row, or for each sample where there is no overlay.

    Args:
        manifest: Of the folder of shards.
        overlay: Rows to join by key; None takes each sample's own json.
        limit: Keep only the first rows.

    Raises:
        ValueError: The overlay names unknown keys, no row is left, or two rows share an id.

    """

    def __init__(self, manifest: Manifest, overlay: Overlay | None = None, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be >= 1 or null, got {limit}")
        self.manifest = manifest
        own = [{"key": sample.key} for sample in manifest.samples]
        rows = own if overlay is None else overlay.known_rows(manifest)
        self.rows = _with_ids(rows)[:limit]
        if not self.rows:
            raise ValueError(f"{manifest.root} and its overlay leave no row to read")
        self.manifest_hash = manifest.hash
        # rows, not the file: a limit or a quarantined video changes what an epoch is made of
        self.overlay_hash = "" if overlay is None and limit is None else Overlay(tuple(self.rows)).hash

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, row: int) -> Sample:
        """Sample that a row speaks of."""
        return self.manifest.by_key[self.rows[row]["key"]]

    def record(self, row: int) -> dict[str, Any]:
        """Record of a row: the sample's json, overridden by the overlay row; media dicts are merged.

        Raises:
            BadSample: The json member is unreadable, or is no record.

        """
        sample = self.sample(row)
        own = _parse(read_member(self.manifest.root, sample, "json")) if "json" in sample.members else {}
        return join(own, self.rows[row])

    def video(self, row: int) -> bytes:
        """Bytes of a row's video.

        Raises:
            BadSample: They are missing or changed.

        """
        sample = self.sample(row)
        return read_member(self.manifest.root, sample, sample.video_extension)


def join(own: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A sample's json with an overlay row laid over it; of `media` and `meta` field by field (null is empty)."""
    return {**own, **row} | {name: {**(own.get(name) or {}), **(row.get(name) or {})} for name in ("media", "meta")}


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        own = json.loads(payload)
    except UnicodeDecodeError as error:
        raise BadSample("member .json is not UTF-8") from error
    except ValueError as error:
        raise BadSample(f"member .json is not JSON: {error}") from error
    if not isinstance(own, dict):
        raise BadSample(f"member .json must be an object, got {type(own).__name__}")
    try:
        # the row's id stands over the sample's own, which other tools write as a number
        check_fields({**own, "id": None}, "member .json")
    except ValueError as error:
        raise BadSample(str(error)) from error
    return own


def _with_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with ``id``: given, else the key where it stands once, else key/number."""
    count: dict[str, int] = {}
    for row in rows:
        count[row["key"]] = count.get(row["key"], 0) + 1
    number: dict[str, int] = {}
    named: list[dict[str, Any]] = []
    for row in rows:
        key = row["key"]
        n = number[key] = number.get(key, -1) + 1
        named.append({**row, "id": row.get("id") or (key if count[key] == 1 else f"{key}/{n}")})
    seen: set[str] = set()
    for row in named:
        if row["id"] in seen:
            raise ValueError(f"id {row['id']!r} stands twice in the overlay; ids are unique per record")
        seen.add(row["id"])
    return named
