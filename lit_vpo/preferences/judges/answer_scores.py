"""Scores that an LLM gives to answers to open questions: quality from 1 to 5, and yes/no with 0 to 5.

*Quality* is the protocol of LLaVA-Hound and ISR-DPO (github.com/snumprlab/ISR-DPO, `eval_qa.py` and `get_score`),
*match* that of Video-ChatGPT. How replies are read and what counts as right are theirs. The wording of the prompts is
ours, by the criteria that theirs name, so numbers are not comparable with published ones; nor are those of two judges
with each other (one answer set scored 77.6 and 88.5 % by two versions of gpt-3.5-turbo), which is why every result
carries the judge's identity.
"""

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_WORDS = 256  # of an answer that the quality judge is shown; longer ones are cut, which hides verbosity

_SCORE = re.compile(r"Score: (\d+\.?\d*)")
_NUMBER = re.compile(r"\b\d+\.?\d*\b")
_DICT = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Truncated:
    """An answer as the judge sees it.

    Args:
        text: At most so many words of it; itself where nothing was cut.
        num_words: Words before anything was cut.
        is_cut: Whether something was.
    """

    text: str
    num_words: int
    is_cut: bool


@dataclass(frozen=True)
class Quality:
    """A quality score.

    Args:
        score: The number, as the judge gave it.
        rule: How it was read: behind `Score:`, by `vote` of all numbers, or `none` found (then it is 1).
    """

    score: float
    rule: Literal["score", "vote", "none"]


@dataclass(frozen=True)
class QualityScores:
    """Quality over a set of answers.

    Args:
        accuracy: Share of scores of 3 and above.
        score: Their mean.
        num_answers: How many.
        num_voted: Replies without `Score:`, read by vote.
        num_unread: Replies without a number, scored 1.
        num_out_of_range: Scores below 1 or above 5; they count as they are, as released.
        num_cut: Answers of which the judge saw the first words only.
        words: Mean words per answer, before cutting.
        judge: Who scored.
    """

    accuracy: float
    score: float
    num_answers: int
    num_voted: int
    num_unread: int
    num_out_of_range: int
    num_cut: int
    words: float
    judge: Mapping[str, Any]


@dataclass(frozen=True)
class Match:
    """A verdict of the match judge: whether the answer is right, and a score from 0 to 5."""

    is_right: bool
    score: float


@dataclass(frozen=True)
class MatchScores:
    """Match over a set of answers.

    Args:
        accuracy: Share of yes; a reply that could not be read is none.
        score: Mean of 0 to 5; such a reply counts 0.
        num_answers: How many.
        num_failed: Replies that could not be read.
        judge: Who scored.
    """

    accuracy: float
    score: float
    num_answers: int
    num_failed: int
    judge: Mapping[str, Any]


def truncate_words(answer: str, max_words: int = MAX_WORDS) -> Truncated:
    """The first words of an answer (parts between white space), and how many it had.

    Raises:
        ValueError: If max_words < 1.
    """
    if max_words < 1:
        raise ValueError(f"max_words must be >= 1, got {max_words}")
    words = answer.split()
    is_cut = len(words) > max_words
    return Truncated(" ".join(words[:max_words]) if is_cut else answer, len(words), is_cut)


def quality_prompt(caption: str, question: str, truth: str, answer: Truncated) -> str:
    """What the quality judge is asked (wording ours): the answer beside the video's caption and the true answer."""
    return (
        "Judge an answer to a question about a video that you cannot see. A caption and a reference answer "
        "tell what is in it.\n\n"
        f"Caption: {caption}\nQuestion: {question}\nReference answer: {truth}\nAnswer to judge: {answer.text}\n\n"
        "Criteria: relevance (it answers the question), accuracy (it agrees with caption and reference answer), "
        "clarity (it is understood at once) and completeness (nothing that was asked for is missing). "
        "1 is worst, 5 best.\n"
        "Reply in this form:\nExplanation: <one or two sentences>\nScore: <integer from 1 to 5>"
    )


def match_prompt(question: str, truth: str, answer: str) -> str:
    """What the match judge is asked (wording ours): whether the answer means the same as the true one."""
    return (
        "Compare the answer to a question about a video with the reference answer. Paraphrases and synonyms match; "
        "only the meaning counts.\n\n"
        f"Question: {question}\nReference answer: {truth}\nAnswer to judge: {answer}\n\n"
        "Reply with a Python dictionary and nothing else: {'pred': 'yes' or 'no', 'score': integer from 0 to 5, 5 for "
        "the same meaning}."
    )


def parse_quality(reply: str) -> Quality:
    """Reads a quality score as released: `Score: <n>`, else the most frequent number (of ties their mean), else 1.

    Example:
        >>> parse_quality("3 3 5")
        Quality(score=3.0, rule='vote')
    """
    if found := _SCORE.search(reply):
        return Quality(float(found[1]), "score")
    counts = Counter(float(number) for number in _NUMBER.findall(reply))
    if not counts:
        return Quality(1.0, "none")
    most = [number for number, count in counts.items() if count == max(counts.values())]
    return Quality(sum(most) / len(most), "vote")


def parse_match(reply: str) -> Match | None:
    """Reads `{'pred': 'yes' | 'no', 'score': 0..5}`, also with text around it; None where that cannot be done."""
    for text in _DICT.findall(reply):
        try:
            found = ast.literal_eval(text)  # knows literals alone: nothing in a reply is run
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if (match := _match(found)) is not None:
            return match
    return None


def quality_scores(replies: Sequence[str], answers: Sequence[Truncated], judge: Mapping[str, Any]) -> QualityScores:
    """Accuracy and mean quality.

    Args:
        replies: The judge's; an empty one for a request that failed.
        answers: What it was shown, in the same order.
        judge: Its identity: model, hash of its prompt, temperature.

    Raises:
        ValueError: Without an answer or an identity, or if their numbers differ.
    """
    _check(replies, judge)
    if len(answers) != len(replies):
        raise ValueError(f"{len(replies)} replies to {len(answers)} answers; give one of each")
    read = [parse_quality(reply) for reply in replies]
    return QualityScores(
        accuracy=sum(each.score >= 3 for each in read) / len(read),
        score=sum(each.score for each in read) / len(read),
        num_answers=len(read),
        num_voted=sum(each.rule == "vote" for each in read),
        num_unread=sum(each.rule == "none" for each in read),
        num_out_of_range=sum(not 1 <= each.score <= 5 for each in read),
        num_cut=sum(answer.is_cut for answer in answers),
        words=sum(answer.num_words for answer in answers) / len(answers),
        judge=judge,
    )


def match_scores(replies: Sequence[str], judge: Mapping[str, Any]) -> MatchScores:
    """Accuracy and mean score of the match judge; replies that could not be read are counted and count as wrong.

    The released scripts leave them out of both means, or ask until the reply can be read.

    Args:
        replies: The judge's; an empty one for a request that failed.
        judge: Its identity: model, hash of its prompt, temperature.

    Raises:
        ValueError: Without a reply or an identity.
    """
    _check(replies, judge)
    read = [match for match in map(parse_match, replies) if match is not None]
    return MatchScores(
        accuracy=sum(match.is_right for match in read) / len(replies),
        score=sum(match.score for match in read) / len(replies),
        num_answers=len(replies),
        num_failed=len(replies) - len(read),
        judge=judge,
    )


def _match(found: object) -> Match | None:
    if not isinstance(found, dict):
        return None
    pred, score = str(found.get("pred")).strip().lower(), found.get("score")
    if (
        pred not in ("yes", "no")
        or not isinstance(score, int | float)
        or isinstance(score, bool)
        or not 0 <= score <= 5
    ):
        return None
    return Match(pred == "yes", float(score))


def _check(replies: Sequence[str], judge: Mapping[str, Any]) -> None:
    if not replies or not judge:
        raise ValueError("scores need at least one reply, and the judge's identity ({judge: ..., prompt: ...})")
