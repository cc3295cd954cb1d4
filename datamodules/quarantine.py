"""Samples that cannot be used: counted, written down with their reason, never replaced in silence."""

import json
from pathlib import Path
from typing import TypedDict

FILE_NAME = "quarantine.jsonl"


class BadSample(ValueError):
    """One sample cannot be used; the message is the reason that goes to the quarantine."""


class QuarantineLine(TypedDict):
    """One line of ``quarantine.jsonl``."""

    shard: str
    key: str
    id: str
    reason: str


class Quarantine:
    """The list of unusable samples of a run or of a folder of shards, each written once.

    A sample is told apart by its ``id`` (an overlay may hold several records of one key).
    The file appears with the first bad sample.

    Args:
        folder: Where ``quarantine.jsonl`` lies or will lie; None counts without writing.

    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = None if folder is None else Path(folder) / FILE_NAME
        self._known = {line["id"] for line in read_quarantine(self.path.parent)} if self.path else set()
        self.added: list[QuarantineLine] = []

    def __len__(self) -> int:
        """Samples added by this object (lines found in an older file are not counted again)."""
        return len(self.added)

    def reasons(self) -> list[str]:
        """Different reasons of the samples added, sorted."""
        return sorted({line["reason"] for line in self.added})

    def add(self, shard: str, key: str, reason: str, record_id: str | None = None) -> bool:
        """Write one sample down.

        Args:
            shard: The shard's name relative to its folder ("" when the sample never reached one).
            key: The sample's key.
            reason: Why it cannot be used.
            record_id: The record's id where it differs from the key.

        Returns:
            Whether the sample was new to this object.

        """
        line: QuarantineLine = {"shard": shard, "key": key, "id": record_id or key, "reason": reason}
        if any(line["id"] == old["id"] for old in self.added):
            return False
        self.added.append(line)
        if self.path is not None and line["id"] not in self._known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._known.add(line["id"])
        return True


def read_quarantine(folder: str | Path) -> list[QuarantineLine]:
    """Lines of ``folder/quarantine.jsonl``; none where the file is absent."""
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
