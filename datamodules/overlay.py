"""Overlays: what a round writes about videos that stay as they are; one JSON line per record, keyed by the sample."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_vpo.atomic import read_lines, write_lines

from .fields import check_fields
from .manifest import Manifest
from .quarantine import read_quarantine
from .tars import KEY_RULE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Overlay:
    """Rows that override and extend the records of a folder of shards.

    Attributes:
        rows: Dicts with ``key`` and any fields of a record; a key may have several rows.

    """

    rows: tuple[dict[str, Any], ...]

    @cached_property
    def hash(self) -> str:
        """Content hash over the rows in their order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, path: str | Path) -> "Overlay":
        """Read an overlay.

        Raises:
            ValueError: A missing file, or a bad row; the message names file, line and field.

        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"overlay {path} does not exist")
        rows = []
        for number, line in enumerate(read_lines(path), start=1):
            if line.strip():
                rows.append(_row(line, f"{path}, line {number}"))
        if not rows:
            raise ValueError(f"overlay {path} has no rows")
        return cls(tuple(rows))

    def save(self, path: str | Path) -> Path:
        """Write the overlay in one step; returns its path.

        Raises:
            ValueError: A bad row, named as on reading.

        """
        path = Path(path)
        for number, row in enumerate(self.rows, start=1):
            _check_row(row, f"{path}, line {number}")
        write_lines(path, (json.dumps(row, ensure_ascii=False) for row in self.rows))
        return path

    def known_rows(self, manifest: Manifest) -> list[dict[str, Any]]:
        """Rows whose video is there. Rows of quarantined videos are left out (the quarantine counts them).

        That holds for rows of text alone too: every row belongs to a sample of the manifest, looked at or not.

        Raises:
            ValueError: A key that is neither in the manifest nor in the folder's quarantine.

        """
        quarantined = {line["key"] for line in read_quarantine(manifest.root)}
        known = manifest.by_key
        unknown = sorted({row["key"] for row in self.rows} - known.keys() - quarantined)
        if unknown:
            names = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ValueError(f"the overlay names keys that {manifest.root} does not hold: {names}")
        rows = [row for row in self.rows if row["key"] in known]
        if len(rows) < len(self.rows):
            log.warning(
                "%d rows left out: their videos are in %s's quarantine", len(self.rows) - len(rows), manifest.root
            )
        return rows


def read_overlay(path: str | Path) -> Overlay:
    """Same as :meth:`Overlay.load`."""
    return Overlay.load(path)


def write_overlay(path: str | Path, rows: Iterable[dict[str, Any]]) -> Overlay:
    """Check rows, write them in one step and return them as an overlay."""
    overlay = Overlay(tuple(rows))
    overlay.save(path)
    return overlay


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row must be an object, got {type(row).__name__}")
    _check_row(row, where)
    return row


def _check_row(row: dict[str, Any], where: str) -> None:
    if not isinstance(row.get("key"), str) or not KEY_RULE.fullmatch(row["key"]):
        raise ValueError(f"{where}, field 'key': must be a sample's key ({KEY_RULE.pattern}), got {row.get('key')!r}")
    check_fields(row, where)
