"""Several overlays at once: difficulties, or rounds 1 to t, each with a weight; their files, and the parts of ranks."""

import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .order import Ints
from .overlay import Overlay, write_overlay
from .reader import RecordReader

_PART = re.compile(r"(0|[1-9]\d*)-([1-9]\d*)")


@dataclass(frozen=True)
class OverlayShare:
    """An overlay and how much of it an epoch shows.

    Attributes:
        path: A file, a comma list or a glob; a name whose parts ``name.RANK-WORLD.jsonl`` lie there stands for them.
        weight: In (0, 1]: an epoch shows ``round(weight * rows)`` of its rows, drawn anew each time.

    """

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class Mix:
    """Overlays joined into one.

    Attributes:
        overlay: The rows of all. Where there are several, a row's own id is led by the number of its overlay
            (``0/``, ``1/``, ...), since rounds speak of the same ids.
        numbers: For each row, which overlay it comes from.
        weights: Of the overlays; empty where all rows are shown.

    """

    overlay: Overlay
    numbers: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def load(cls, source: str | Sequence[OverlayShare]) -> "Mix":
        """Read the overlays that a data source names.

        Raises:
            ValueError: A file that is missing, incomplete or bad, or a weight outside (0, 1] or too small for one row.

        """
        shares = [OverlayShare(source)] if isinstance(source, str) else list(source)
        files = [(path, share.weight) for share in shares for path in overlay_files(share.path)]
        loaded = [read_parts(path) for path, _ in files]
        for (path, weight), overlay in zip(files, loaded, strict=True):
            _check_weight(path, weight, len(overlay.rows))
        if len(loaded) == 1:
            rows = loaded[0].rows
        else:
            rows = tuple(_named(row, number) for number, overlay in enumerate(loaded) for row in overlay.rows)
        numbers = tuple(number for number, overlay in enumerate(loaded) for _ in overlay.rows)
        weights = tuple(weight for _, weight in files)
        return cls(Overlay(rows), numbers, weights if min(weights) < 1 else ())

    def origins(self, reader: RecordReader) -> Ints:
        """(N,) the overlay of each row of a reader of this mix."""
        known = reader.manifest.by_key
        pairs = zip(self.overlay.rows, self.numbers, strict=True)
        return np.array([number for row, number in pairs if row["key"] in known][: len(reader)])


def overlay_files(path: str) -> list[Path]:
    """Overlays that a path, a comma list or a glob names, those of a glob sorted; parts of ranks count as one.

    Raises:
        ValueError: A glob that matches nothing.

    """
    if "," in path and not Path(path).exists():
        return [file for piece in path.split(",") if piece.strip() for file in overlay_files(piece.strip())]
    if Path(path).exists() or not glob.has_magic(path):
        return [Path(path)]
    found = sorted({_whole(Path(name)) for name in glob.glob(path)})
    if not found:
        raise ValueError(f"no overlay matches {path}")
    return found


def part_of(path: str | Path, rank: int, world: int) -> Path:
    """Where one of several ranks writes its rows of an overlay: ``name.RANK-WORLD.jsonl``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{rank}-{world}{path.suffix}")


def write_part(path: str | Path, rows: Iterable[dict[str, Any]], rank: int, world: int) -> Overlay:
    """Write one rank's rows of an overlay in one step; a single rank writes the overlay itself, sorted as if merged."""
    return write_overlay(path, _sorted(rows)) if world == 1 else write_overlay(part_of(path, rank, world), rows)


def read_parts(path: str | Path) -> Overlay:
    """Read an overlay, from its file or from the parts of all ranks, sorted so that the number of ranks is forgotten.

    What :func:`write_part` wrote gives the same rows in the same order for every number of ranks. A file of another
    hand keeps its own order.

    Raises:
        ValueError: File and parts, or parts of several worlds, lie side by side; a part is missing; a bad row.

    """
    path = Path(path)
    parts = {
        place: file for file in path.parent.glob(f"{glob.escape(path.stem)}.*{path.suffix}") if (place := _place(file))
    }
    if not parts:
        return Overlay.load(path)
    worlds = {world for _, world in parts}
    if path.exists() or len(worlds) > 1:
        names = sorted(file.name for file in [*parts.values(), *([path] if path.exists() else [])])
        raise ValueError(f"{path.parent} holds {', '.join(names)}: remove those that are old")
    (world,) = worlds
    if missing := [part_of(path, rank, world).name for rank in range(world) if (rank, world) not in parts]:
        raise ValueError(f"overlay {path} is incomplete: {', '.join(missing)} is missing; did that rank finish?")
    # a rank that kept none of its pairs leaves an empty part
    rows = [row for part in parts.values() if part.stat().st_size for row in Overlay.load(part).rows]
    if not rows:
        raise ValueError(f"overlay {path} has no rows: all its parts are empty")
    return Overlay(tuple(_sorted(rows)))


def place_of(text: str) -> tuple[int, int] | None:
    """Rank and world of ``RANK-WORLD``; a date (``2024-10``, ``03-10``) is none."""
    match = _PART.fullmatch(text)
    return (int(match[1]), int(match[2])) if match and int(match[1]) < int(match[2]) else None


def _place(file: Path) -> tuple[int, int] | None:
    return place_of(file.stem.rpartition(".")[2])


def _sorted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: json.dumps([row.get("key"), row], sort_keys=True))


def _check_weight(path: Path, weight: float, num_rows: int) -> None:
    if not 0 < weight <= 1:
        raise ValueError(f"the weight of overlay {path} must lie in (0, 1], got {weight}")
    if round(weight * num_rows) < 1:
        raise ValueError(
            f"the weight {weight} of overlay {path} shows none of its {num_rows} rows; leave the overlay out, "
            f"or give it a weight of at least {1 / num_rows:.2g}"
        )


def _whole(file: Path) -> Path:
    return file.with_name(file.stem.rpartition(".")[0] + file.suffix) if _place(file) else file


def _named(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {**row, "id": f"{number}/{row['id']}"} if row.get("id") else row
