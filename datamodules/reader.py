"""Read records and video bytes: the manifest says where, the overlay what is asked of them."""

import copy
import json
import zlib
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from .fields import check_fields
from .labels import shuffled_labels
from .manifest import Manifest, Sample
from .overlay import Overlay
from .quarantine import BadSample
from .stores import LocalStore, Store


def read_member(store: Store, sample: Sample, extension: str) -> bytes:
    """Bytes of one member, checked against its crc32.

    Args:
        store: Where the manifest's files lie.
        sample: Whose member.
        extension: Which member.

    Raises:
        BadSample: The file is missing, short, or its bytes changed since it was indexed.

    """
    offset, size, checksum = sample.members[extension]
    name = sample.shard
    if not name.endswith(".tar"):
        name = PurePosixPath(name).with_suffix(f".{extension}").as_posix()
    payload = store.read(name, offset, size)
    if len(payload) < size:
        raise BadSample(f"member .{extension} is cut: {len(payload)} of {size} bytes")
    if zlib.crc32(payload) != checksum:
        raise BadSample(f"member .{extension} changed since it was indexed (crc32)")
    return payload


class RecordReader:
    """The rows of a source in order: one for each overlay row, or for each sample where there is no overlay.

    Args:
        manifest: Of the folder of shards.
        overlay: Rows to join by key; None takes each sample's own json.
        limit: Keep only the first rows.
        store: Where the manifest's files lie; None is its own folder.

    Raises:
        ValueError: The overlay names unknown keys, no row is left, or two rows share an id.

    """

    def __init__(
        self,
        manifest: Manifest,
        overlay: Overlay | None = None,
        limit: int | None = None,
        store: Store | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be >= 1 or null, got {limit}")
        self.manifest, self.store = manifest, store or LocalStore(manifest.root)
        self.overlaid = overlay is not None
        own = [{"key": sample.key} for sample in manifest.samples]
        rows = own if overlay is None else overlay.known_rows(manifest)
        self.rows = _with_ids(rows)[:limit]
        if not self.rows:
            raise ValueError(f"{manifest.root} and its overlay leave no row to read")
        self.manifest_hash = manifest.hash
        # rows, not the file: a limit or a quarantined video changes what an epoch is made of
        self.overlay_hash = "" if overlay is None and limit is None else Overlay(tuple(self.rows)).hash
        self.label_seed: int | None = None

    def with_shuffled_labels(self, seed: int) -> "RecordReader":
        """The same rows, with chosen and rejected swapped in a random half of them (:func:`shuffled_labels`)."""
        shuffled = copy.copy(self)
        shuffled.label_seed, shuffled.overlay_hash = seed, f"{self.overlay_hash}/labels-{seed}"
        return shuffled

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, row: int) -> Sample:
        """Sample that a row speaks of."""
        return self.manifest.by_key[self.rows[row]["key"]]

    def sample_of(self, key: str) -> Sample:
        """Sample of a key, one that no row speaks of among them.

        Raises:
            BadSample: The folder has none.

        """
        if key not in self.manifest.by_key:
            raise BadSample(f"the folder has no sample {key!r}")
        return self.manifest.by_key[key]

    def record(self, row: int) -> dict[str, Any]:
        """Record of a row: the sample's json, overridden by the overlay row; media dicts are merged.

        A weight is a row's: that of a sample's json counts only where no overlay lies over it.

        Raises:
            BadSample: The json member is unreadable, or is no record.

        """
        sample = self.sample(row)
        own = _parse(read_member(self.store, sample, "json")) if "json" in sample.members else {}
        if self.overlaid:
            own.pop("weight", None)
        return self._labelled(join(own, self.rows[row]))

    def fields(self, row: int, names: Collection[str]) -> dict[str, Any]:
        """A record as far as some of its fields and its weight go: no file is read where the overlay's row has them.

        Raises:
            BadSample: As :meth:`record`.

        """
        own = self.rows[row]
        return self._labelled(own) if all(own.get(name) is not None for name in names) else self.record(row)

    def video(self, row: int) -> bytes:
        """Bytes of a row's video.

        Raises:
            BadSample: They are missing or changed.

        """
        return self.video_of(self.rows[row]["key"])

    def video_of(self, key: str) -> bytes:
        """Bytes of a sample's video.

        Raises:
            BadSample: There is no such sample, or they are missing or changed.

        """
        sample = self.sample_of(key)
        return read_member(self.store, sample, sample.video_extension)

    def audio(self, row: int) -> bytes:
        """Bytes of the sound that is kept apart from a row's video.

        Raises:
            BadSample: There is none, or its bytes are missing or changed.

        """
        sample = self.sample(row)
        extension = sample.audio_extension
        if extension is None:
            raise BadSample(f"the record names a sound of its own, the sample has only {', '.join(sample.members)}")
        return read_member(self.store, sample, extension)

    def _labelled(self, record: dict[str, Any]) -> dict[str, Any]:
        return record if self.label_seed is None else shuffled_labels(record, self.label_seed)


def join(own: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A sample's json with an overlay row laid over it; of `media` and `meta` field by field (null is empty)."""
    return {**own, **row} | {name: {**(own.get(name) or {}), **(row.get(name) or {})} for name in ("media", "meta")}


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        own = json.loads(payload)
    except UnicodeDecodeError as error:
        raise BadSample("member .json is not UTF-8") from error
    except (ValueError, RecursionError) as error:
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
