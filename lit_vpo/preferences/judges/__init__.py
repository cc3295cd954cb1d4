"""Judges count what a caption gets wrong, or prefer one of two answers; who they are stands beside what they say."""

from lit_vpo.preferences.judges.exact import ExactJudge
from lit_vpo.preferences.judges.pairwise import Duel, LongerWins, Opinion, PairwiseJudge, RandomJudge
from lit_vpo.preferences.judges.protocol import Judge, Reply, Request
from lit_vpo.preferences.judges.recorded import RecordedJudge
from lit_vpo.preferences.judges.verdicts import parse_verdict

__all__ = [
    "Duel",
    "ExactJudge",
    "Judge",
    "LongerWins",
    "Opinion",
    "PairwiseJudge",
    "RandomJudge",
    "RecordedJudge",
    "Reply",
    "Request",
    "parse_verdict",
]
