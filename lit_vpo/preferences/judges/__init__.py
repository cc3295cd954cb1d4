"""Judges count what a caption gets wrong; who they are stands beside every number that they make."""

from lit_vpo.preferences.judges.exact import ExactJudge
from lit_vpo.preferences.judges.protocol import Judge, Reply, Request
from lit_vpo.preferences.judges.recorded import RecordedJudge

__all__ = ["ExactJudge", "Judge", "RecordedJudge", "Reply", "Request"]
