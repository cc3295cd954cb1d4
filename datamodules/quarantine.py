"""Samples that cannot be used: counted, written down with their reason, never replaced in silence."""

import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Literal, TypedDict, cast

from lit_vpo.atomic import append_line, read_lines, write_lines

log = logging.getLogger(__name__)

FILE_NAME = "quarantine.jsonl"

Stage = Literal["index", "pack", "run"]


class BadSample(ValueError):
    """One sample cannot be used; the message is the reason that goes to the quarantine."""


class QuarantineLine(TypedDict):
    """One line of ``quarantine.jsonl``."""

    shard: str
    key: str
    id: str
    reason: str
    stage: Stage


class Quarantine:
    """The list of unusable samples of a run or of a folder of shards.

    A sample is told apart by its ``id`` (an overlay may hold several records of one key); one that the file already
    names is not written again. The file appears with the first bad sample. Ranks may share it: each adds whole lines,
    and two that meet one sample at the same time both name it.

    All counts are of this object, since it was made: a resumed run counts anew, while the file keeps the lines of all.

    Args:
        folder: Where ``quarantine.jsonl`` lies or will lie; None counts without writing.
        stage: Who finds the samples unusable.

    """

    def __init__(self, folder: str | Path | None, stage: Stage = "run") -> None:
        self.path, self.stage = None if folder is None else Path(folder) / FILE_NAME, stage
        self._known = {line["id"] for line in read_quarantine(self.path.parent)} if self.path else set()
        self.added: list[QuarantineLine] = []
        self._added: set[str] = set()

    def __len__(self) -> int:
        """Different samples added to this object, those that an older file already named among them."""
        return len(self.added)

    def reasons(self) -> list[str]:
        """Different reasons of the samples added, sorted."""
        return sorted({line["reason"] for line in self.added})

    def counts(self) -> Counter[str]:
        """Samples added, by the short name of their reason; see :func:`reason_name`."""
        return Counter(reason_name(line["reason"]) for line in self.added)

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
        name = record_id or key
        if name in self._added:
            return False
        line: QuarantineLine = {"shard": shard, "key": key, "id": name, "reason": reason, "stage": self.stage}
        self.added.append(line)
        self._added.add(name)
        if self.path is not None and name not in self._known:
            append_line(self.path, json.dumps(line))  # ASCII: a torn line is still text
            self._known.add(name)
        return True


def reason_name(reason: str) -> str:
    """A reason as the name of a metric: its first words, without what tells one sample from another.

    ``member .mp4 is cut: 3 of 8 bytes`` -> ``member_mp4_is_cut``.
    """
    words = re.findall(r"[a-z_]+(?:\d+)?", re.split(r"[:;,('\"]", reason.lower())[0])
    return "_".join(words[:8]) or "other"


def read_quarantine(folder: str | Path) -> list[QuarantineLine]:
    """Lines of ``folder/quarantine.jsonl``; none where the file is absent.

    A line that was cut while it was written (its process was killed) is left out and logged: its sample counts as not
    yet written.

    Raises:
        ValueError: Another line that is none of a quarantine; the message names file and line.

    """
    path = Path(folder) / FILE_NAME
    numbered = enumerate(read_lines(path) if path.exists() else [], start=1)
    parsed = [_parse(line, f"{path}, line {number}") for number, line in numbered if line]
    return [line for line in parsed if line is not None]


def _parse(text: str, where: str) -> QuarantineLine | None:
    """None where the line ends before its object does."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
        if not text.endswith("}"):
            log.warning("%s is left out: it was cut while it was written", where)
            return None
    if not isinstance(line, dict) or not line.keys() >= QuarantineLine.__required_keys__:
        raise ValueError(f"{where}: not a line of a quarantine; remove it")
    return cast(QuarantineLine, line)


def forget(folder: str | Path, stage: Stage) -> None:
    """Drop a stage's lines from ``folder/quarantine.jsonl``, before it looks at every sample again.

    An emptied file is removed.
    """
    path, lines = Path(folder) / FILE_NAME, read_quarantine(folder)
    kept = [line for line in lines if line.get("stage") != stage]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(lines):
        write_lines(path, map(json.dumps, kept))
