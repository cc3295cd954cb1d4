"""Blind rating of pairs: which side shows the chosen answer, and the sheet that a rater fills in.

Sides are drawn from (seed, id) and stand nowhere: page and sheet hold nothing beyond the id, what is shown, and a hash
of it, and whoever knows the seed draws the sides again.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from lit_vpo.randomness import seed_of

Row: TypeAlias = Mapping[str, Any]

_COLUMNS = ["id", "better", "shown"]
_WORDS = {"1": 1, "2": 2, "tie": 0, "": None}


class Rating(NamedTuple):
    """What a rater said of one pair.

    Args:
        better: The side, 1 or 2; 0 for a tie, None where nothing was filled in.
        shown: Hash of the two texts in their order.
    """

    better: int | None
    shown: str


def chosen_side(seed: int, name: str) -> int:
    """The side, 1 or 2, on which a page shows the chosen answer of the pair of that id."""
    return 1 + seed_of(seed, "blind", name) % 2


def sides(pair: Row, seed: int) -> tuple[str, str]:
    """The texts on sides 1 and 2."""
    names = ("chosen", "rejected") if chosen_side(seed, pair["id"]) == 1 else ("rejected", "chosen")
    return pair[names[0]], pair[names[1]]


def write_sheet(path: Path, pairs: Iterable[Row], seed: int) -> None:
    """Writes the sheet to fill in: a line `id,better,shown` for each pair, `better` to become 1, 2 or tie.

    Args:
        path: The CSV file; its folder is made.
        pairs: With id, chosen and rejected.
        seed: Of the sides.

    Raises:
        ValueError: If there is a file: somebody's answers may stand in it.
    """
    if path.exists():
        raise ValueError(f"{path} exists and may hold answers; remove it, or give the page another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_COLUMNS, *([pair["id"], "", _hash(pair, seed)] for pair in pairs)])


def read_sheet(path: str | Path) -> dict[str, Rating]:
    """The ratings of a sheet by the pairs' ids.

    Raises:
        ValueError: If there is no file, its columns are others, an id stands twice, or an answer is not 1, 2, tie (in
            any case) or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `data show OVERLAY --blind` writes the sheet to fill in")
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark before the first column
        lines = list(csv.reader(file))
    if not lines or lines[0] != _COLUMNS:
        found = ",".join(lines[0]) if lines else "nothing"
        raise ValueError(f"{path} must begin with the line {','.join(_COLUMNS)} (commas between); got {found}")
    return _ratings(path, [(number, line) for number, line in enumerate(lines[1:], 2) if line])


def check_shown(ratings: Mapping[str, Rating], pairs: Mapping[str, Row], seed: int) -> None:
    """Refuses ratings of other pairs than these, or of a page with other sides.

    Args:
        ratings: Of a sheet.
        pairs: By id.
        seed: Of the sides.

    Raises:
        ValueError: If a rated pair is unknown, or its page showed something else.
    """
    unknown = [name for name in ratings if name not in pairs]
    if unknown:
        raise ValueError(
            f"the sheet rates {len(unknown)} pairs that are not given: {', '.join(unknown[:5])}; give the overlay that "
            "`data show --blind` was given"
        )
    other = [name for name, rating in ratings.items() if rating.shown != _hash(pairs[name], seed)]
    if other:
        raise ValueError(
            f"{len(other)} of {len(ratings)} rated pairs were shown otherwise, such as {', '.join(other[:3])}; give "
            "the --seed and the overlay of the page that was rated"
        )


def _hash(pair: Row, seed: int) -> str:
    """Of what is shown alone: it says nothing of which text was chosen."""
    return hashlib.blake2b(json.dumps(sides(pair, seed)).encode(), digest_size=8).hexdigest()


def _ratings(path: Path, lines: list[tuple[int, list[str]]]) -> dict[str, Rating]:
    wrong = [
        f"line {number} ({','.join(line)})"
        for number, line in lines
        if len(line) != len(_COLUMNS) or _word(line) not in _WORDS
    ]
    if wrong:
        raise ValueError(f"{path}: `better` must be 1, 2, tie or empty, in three columns: {'; '.join(wrong[:5])}")
    twice = [name for name, count in Counter(line[0] for _, line in lines).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: {len(twice)} ids stand twice: {', '.join(twice[:5])}; keep one line of each")
    return {line[0]: Rating(_WORDS[_word(line)], line[2]) for _, line in lines}


def _word(line: list[str]) -> str:
    return line[1].strip().lower()
