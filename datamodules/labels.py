"""Shuffled preference labels: the control from which nothing may be learned."""

from typing import Any

from lit_vpo.randomness import seed_of

Row = dict[str, Any]
_OTHER = {"chosen": "rejected", "rejected": "chosen"}


def shuffled_labels(record: Row, seed: int) -> Row:
    """A record whose label is drawn: chosen and rejected change places in half of all records, views and scores too.

    Args:
        record: With an id; one without responses to compare stays as it is.
        seed: Address of the draw, together with the id.

    """
    if seed_of(seed, "labels", record["id"]) % 2:
        return record
    return _swapped(record) | {name: _swapped(record[name]) for name in ("views", "scores") if record.get(name)}


def _swapped(fields: Row) -> Row:
    return {_OTHER.get(name, name): value for name, value in fields.items()}
