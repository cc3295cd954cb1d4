"""Replies from a file: a costly judge's verdicts are asked for once, and a run without it can be repeated."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.preferences.judges.protocol import Judge, Reply, Request


class RecordedJudge:
    """Answers from recorded replies; what is not recorded is asked of another judge and recorded.

    Args:
        path: JSONL of {key, counts, raw, judge}; written line by line, so that a killed run loses no reply.
        judge: Asked for what the file does not hold; null raises then.

    Raises:
        ValueError: If the file does not exist and there is nobody to ask, or it cannot be read.
    """

    def __init__(self, path: str, judge: Judge | None = None) -> None:
        self.path, self.judge = Path(path), judge
        if judge is None and not self.path.is_file():
            raise ValueError(f"{path} does not exist; give the file of recorded replies, or a judge to record")
        self.rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(self._lines(), start=1):
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: not a recorded reply ({error})") from error

    @property
    def identity(self) -> dict[str, Any]:
        """Who gave the replies."""
        if self.judge is not None:
            return self.judge.identity
        judges = {json.dumps(row["judge"], sort_keys=True) for row in self.rows.values()}
        return {"judge": "recorded", "recorded": [json.loads(judge) for judge in sorted(judges)]}

    def score(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request, in their order.

        Raises:
            ValueError: If a reply is not recorded and there is nobody to ask.
        """
        unknown = {request.key: request for request in requests if request.key not in self.rows}
        if unknown:
            self._ask(unknown)
        return [_reply(self.rows[request.key]) for request in requests]

    def _ask(self, unknown: dict[str, Request]) -> None:
        if self.judge is None:
            first = next(iter(unknown.values()))
            raise ValueError(
                f"{self.path} holds no reply to {len(unknown)} requests (first: video {first.record.get('key')!r}, "
                f"{first.text[:60]!r}); record them with a judge"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replies = zip(unknown, self.judge.score(list(unknown.values())), strict=True)
        with self.path.open("a", encoding="utf-8") as file:
            for key, reply in replies:
                counts = None if reply.counts is None else asdict(reply.counts)
                self.rows[key] = {"key": key, "counts": counts, "raw": reply.raw, "judge": self.judge.identity}
                file.write(json.dumps(self.rows[key]) + "\n")

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        # a kill may leave half a line at the end; its request is asked again
        return [line for line in text[: text.rfind("\n") + 1].split("\n") if line]


def _reply(row: dict[str, Any]) -> Reply:
    return Reply(None if row["counts"] is None else CaptionCounts(**row["counts"]), row["raw"])
