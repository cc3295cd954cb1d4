"""A judge that knows the truth: a caption scorer, such as MotionWorld's parser."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lit_vpo.preferences.judges.protocol import Reply, Request
from lit_vpo.protocols import CaptionScorer


class ExactJudge:
    """Counts by a function of caption and record.

    Args:
        scorer: Such as `lit_vpo.datamodules.motion_world.score_caption`.
    """

    def __init__(self, scorer: CaptionScorer) -> None:
        self.scorer = scorer

    @property
    def identity(self) -> dict[str, Any]:
        """The scorer's dotted path."""
        return {"judge": f"{self.scorer.__module__}.{getattr(self.scorer, '__qualname__', repr(self.scorer))}"}

    def score(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request, in their order."""
        counted = [self.scorer(request.text, request.record) for request in requests]
        return [Reply(counts, str(asdict(counts))) for counts in counted]
