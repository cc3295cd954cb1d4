"""Read public annotation files as they are: JSON arrays or JSONL, one or many, each row by its detected format.

The formats stand in ``formats_pairs.py`` and ``formats_answers.py``, one small function each; one's own goes on the
registry.
"""

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_vpo.atomic import read_lines

from . import formats_answers, formats_pairs  # noqa: F401  they register themselves, pairs first
from .fields import Row, check_fields
from .formats import SCHEMAS, Schema, register, strip_tags
from .mix import place_of

__all__ = ["SCHEMAS", "Annotations", "Schema", "find_files", "read_annotations", "register", "strip_tags", "to_records"]


@dataclass(frozen=True)
class Annotations:
    """Records of files and what was left aside.

    Attributes:
        records: In the order of the rows; a conversation with several answers gives several.
        places: Where each record comes from: ``file:row``, rows from 1.
        left_out: (place, reason) of rows that make no record.

    """

    records: list[Row]
    places: list[str]
    left_out: list[tuple[str, str]]


def read_annotations(files: str | Path) -> Annotations:
    """Read files of any registered formats, row by row.

    Args:
        files: As :func:`find_files` takes them.

    Raises:
        ValueError: A missing file, a format without a name, or a bad row; the message names file, row and field.

    """
    records: list[Row] = []
    places: list[str] = []
    for path in find_files(files):
        for number, row in enumerate(_read_rows(path), start=1):
            made = to_records(row, f"{path}, row {number}")
            records += made
            places += [f"{path.name}:{number}"] * len(made)
    return _joined(records, places)


def find_files(files: str | Path) -> list[Path]:
    """Files that a name stands for: several with commas between, a glob, or the shards that ranks wrote.

    Ranks write ``name.jsonl.0-2`` and ``name.jsonl.1-2``; ``name.jsonl`` stands for all of them. ``*.filtered`` is what
    a filter left out, and is never read.

    Raises:
        ValueError: A name that leads to no file, or shards of which some are missing or from another run.

    """
    if isinstance(files, str) and "," in files:
        return [path for name in files.split(",") if name.strip() for path in find_files(name.strip())]
    name = str(files)
    if Path(name).is_file():
        return [Path(name)]
    pattern = name if glob.has_magic(name) else f"{glob.escape(name)}.*-*"
    found = sorted(Path(path) for path in glob.glob(pattern) if not path.endswith(".filtered"))
    found = [path for path in found if path.is_file() and (glob.has_magic(name) or _shard(path))]
    if not found:
        raise ValueError(f"annotation file {name} does not exist")
    _check_shards(found)
    return found


def to_records(row: Any, where: str) -> list[Row]:
    """Convert one row by its detected format and check the fields of the result.

    Raises:
        ValueError: No known format, or a bad field; the message begins with ``where``.

    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row must be an object, got {type(row).__name__}")
    for schema in SCHEMAS:
        if schema.detect(row):
            made = schema.convert(row, where)
            records = made if isinstance(made, list) else [made]
            for record in records:
                check_fields(record, where)
                record["meta"] = {**(record.get("meta") or {}), "schema": schema.name}
            return records
    known = ", ".join(schema.name for schema in SCHEMAS)
    raise ValueError(f"{where}: fields {sorted(row)} are of no known format ({known})")


def _joined(records: list[Row], places: list[str]) -> Annotations:
    """TEMPLE's generations become pairs: the clean one of a video is chosen, each perturbed one rejected."""
    clean: dict[tuple[str, str], Row] = {}
    for record in records:
        if _is_generation(record) and record["perturbation"]["kind"] == "none":
            clean[record["media"]["video"], record["prompt"]] = record
    kept: list[tuple[Row, str]] = []
    left_out: list[tuple[str, str]] = []
    for record, place in zip(records, places, strict=True):
        if not _is_generation(record):
            kept.append((record, place))
        elif record["perturbation"]["kind"] != "none":
            chosen = clean.get((record["media"]["video"], record["prompt"]))
            if chosen is None or "N/A" in (chosen["ground_truth"], record["ground_truth"]):
                left_out.append((place, "this video has no clean response beside the perturbed one"))
                continue
            pair = {"chosen": chosen["ground_truth"], "rejected": record.pop("ground_truth"), "mode": "dpo"}
            kept.append(({**record, **pair, "r": record["perturbation"]["r"]}, place))
    if clean and not kept and not left_out:
        raise ValueError(f"{places[0]}: clean responses alone make no pairs; name the perturbed files too, or a glob")
    return Annotations([record for record, _ in kept], [place for _, place in kept], left_out)


def _is_generation(record: Row) -> bool:
    return bool(record["meta"]["schema"] == "temple_inter")


def _shard(path: Path) -> tuple[str, tuple[int, int]] | None:
    """The name that a shard belongs to, its rank and world; None for any other file."""
    name, _, place = str(path).rpartition(".")
    found = place_of(place) if name.endswith((".json", ".jsonl")) else None
    return (name, found) if found else None


def _check_shards(paths: list[Path]) -> None:
    worlds: dict[str, set[tuple[int, int]]] = {}
    for name, place in filter(None, map(_shard, paths)):
        worlds.setdefault(name, set()).add(place)
    for name, shards in worlds.items():
        world = max(world for _, world in shards)
        if shards != {(rank, world) for rank in range(world)}:
            found = ", ".join(f"{rank}-{world}" for rank, world in sorted(shards))
            raise ValueError(
                f"{name} has the shards {found}: some are missing, or two runs wrote there; remove the older run's"
            )


def _read_rows(path: Path) -> list[Any]:
    lines = read_lines(path)
    if next((line.lstrip() for line in lines if line.strip()), "").startswith("["):
        try:
            rows: list[Any] = json.loads("\n".join(lines))
        except ValueError as error:
            raise ValueError(f"{path}: not a JSON array ({error})") from error
        return rows
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: not JSON ({error})") from error
    return rows
