"""What a judge is asked and what it answers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lit_vpo.metrics.captions import CaptionCounts, asked_events

_TRUTH = ("key", "prompt", "ground_truth", "events", "media")


@dataclass(frozen=True)
class Request:
    """A caption and the record that holds the truth about its video.

    Attributes:
        text: The caption.
        finished: Whether it ended by itself (else it was cut at the token limit).
        record: With `ground_truth` or `events`.
    """

    text: str
    finished: bool
    record: dict[str, Any]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events to judge by: the record's, or those of the interval that its prompt asks about."""
        return asked_events(self.record)

    @property
    def key(self) -> str:
        """Hash of all that a verdict may depend on."""
        truth = {name: self.record.get(name) for name in _TRUTH} | {"meta": self.record.get("meta", {})}
        content = json.dumps([self.text, self.finished, truth], sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Reply:
    """A judge's answer.

    Attributes:
        counts: Missed, incorrect and hallucinated events, and what else was counted; None if it could not be read.
        raw: The verdict as the judge gave it.
    """

    counts: CaptionCounts | None
    raw: str = ""


@runtime_checkable
class Judge(Protocol):
    """Counts errors; a class of one's own is named by its dotted path."""

    @property
    def identity(self) -> dict[str, Any]:
        """What stands beside its numbers: its model or scorer, hash of its prompt, seed."""

    def score(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request, in their order."""
