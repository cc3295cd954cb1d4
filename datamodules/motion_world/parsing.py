"""Reads a caption back into events and counts what is wrong with it, exactly and with no LLM."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from lit_vpo.metrics.captions import CaptionCounts, asked_events

from .language import NOTHING, PHRASINGS, SOUND_PHRASINGS
from .scene import COLOURS, SHAPES

Claim = tuple[str, str]  # ("red square", "move left"), or ("", "high beep") for a sound

_VERBS = {text: act for act, texts in PHRASINGS.items() for text in texts}
_SOUNDS = {text: act for act, texts in SOUND_PHRASINGS.items() for text in texts}
_OPPOSITES = (("grow", "shrink"), ("appear", "disappear"), ("move left", "move right"), ("move up", "move down"))
_BACKWARDS = {**dict(_OPPOSITES), **{b: a for a, b in _OPPOSITES}}
_CLAIM = re.compile(
    rf"\b(?P<actor>(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})) (?P<verb>{'|'.join(_VERBS)})\b"
    rf"|(?P<sound>{'|'.join(_SOUNDS)})"
)


@dataclass(frozen=True)
class Sentence:
    """One sentence: the claims it makes (none for filler and details)."""

    text: str
    claims: tuple[Claim, ...]


def parse(caption: str) -> list[Sentence]:
    """Splits a caption at full stops and semicolons and reads the claims of each sentence, in any phrasing."""
    texts = [" ".join(part.lower().replace(",", " ").split()) for part in re.split(r"[.;!?]", caption)]
    return [Sentence(text, tuple(_claim(match) for match in _CLAIM.finditer(text))) for text in texts if text]


def _claim(match: re.Match[str]) -> Claim:
    if match["sound"]:
        return "", _SOUNDS[match["sound"]]
    return match["actor"], _VERBS[match["verb"]]


def score_caption(caption: str, record: Mapping[str, Any], modalities: Sequence[str] = ("visual",)) -> CaptionCounts:
    """Counts missed, incorrect and hallucinated events, discordant pairs, repetition and unsupported words.

    A claim is right if the record has the event; *incorrect* if its actor does something else that nobody mentioned
    (right actor, wrong act; it stands for that event, which is then not also missed); otherwise *hallucinated*.
    Repeated claims and repeated sentences count as repetition only. Order is counted apart, over pairs of right
    claims (first mentions).

    Args:
        caption: Any text.
        record: A record with `events` ({text, start_s, end_s, modality}) and `meta.details` (the true extra sentences);
            `meta.interval` restricts the events, see `lit_vpo.metrics.captions.asked_events`.
        modalities: The kinds of event that count.

    Raises:
        ValueError: If the record has no events, or an event's text is not one of MotionWorld's.
    """
    truth = _true_claims(record, modalities)
    lines = parse(caption)
    mentions = [claim for line in lines for claim in line.claims]
    claims = list(dict.fromkeys(mentions))
    right = [claim for claim in claims if claim in truth]
    incorrect, hallucinated = _classify([c for c in claims if c not in truth], [t for t in truth if t not in right])
    order = [truth.index(claim) for claim in right]
    texts = [line.text for line in lines]
    return CaptionCounts(
        num_events=len(truth),
        missed=len(truth) - len(right) - incorrect,
        incorrect=incorrect,
        hallucinated=hallucinated,
        discordant_pairs=sum(a > b for a, b in combinations(order, 2)),
        matched_pairs=len(order) * (len(order) - 1) // 2,
        num_sentences=len(lines),
        repeated_sentences=sum(_repeats(lines, i) for i in range(len(lines))),
        num_words=sum(len(text.split()) for text in texts),
        unsupported_words=sum(len(line.text.split()) for line in lines if not _supported(line, record)),
    )


def score_reversed_acts(caption: str, record: Mapping[str, Any]) -> CaptionCounts:
    """Counts events told backwards: what grew is said to shrink, what moved left to move right.

    Frames in reversed order show such acts, so preferences from them may teach acts rather than order. Four counts
    differ from `score_caption`'s: `num_events` are the events that another act would be backwards, `incorrect`
    are those of them that are told so and not also as they were; `missed` and `hallucinated` are 0.

    Args:
        caption: Any text.
        record: As for `score_caption`.

    Raises:
        ValueError: As `score_caption`.
    """
    counts = score_caption(caption, record)
    told = {claim for line in parse(caption) for claim in line.claims}
    truth = [claim for claim in _true_claims(record, ("visual",)) if claim[1] in _BACKWARDS]
    wrong = [(actor, act) for actor, act in truth if (actor, act) not in told and (actor, _BACKWARDS[act]) in told]
    return replace(counts, num_events=len(truth), incorrect=len(wrong), missed=0, hallucinated=0)


def _true_claims(record: Mapping[str, Any], modalities: Sequence[str]) -> list[Claim]:
    if "events" not in record:
        raise ValueError(
            f"record {record.get('id')!r} has no `events`: this scorer fits MotionWorld's records alone; give your own "
            "scorer, a function (caption, record) -> CaptionCounts, by its dotted path"
        )
    claims = []
    for event in sorted(asked_events(record), key=lambda e: e["start_s"]):
        if event["modality"] in modalities:
            match = _CLAIM.search(event["text"])
            if match is None:
                raise ValueError(
                    f"not a MotionWorld event: {event['text']!r}; score other worlds with their own scorer"
                )
            claims.append(_claim(match))
    return claims


def _classify(wrong: list[Claim], unmentioned: list[Claim]) -> tuple[int, int]:
    """(incorrect, hallucinated): each wrong claim may stand for one unmentioned event of the same actor."""
    incorrect = 0
    for actor, _ in wrong:
        event = next((t for t in unmentioned if actor and t[0] == actor), None)
        if event is not None:
            unmentioned.remove(event)
            incorrect += 1
    return incorrect, len(wrong) - incorrect


def _repeats(lines: Sequence[Sentence], i: int) -> bool:
    """Whether sentence i says nothing that an earlier one has not said."""
    earlier = lines[:i]
    if lines[i].claims:
        return all(any(claim in line.claims for line in earlier) for claim in lines[i].claims)
    return any(lines[i].text == line.text for line in earlier)


def _supported(line: Sentence, record: Mapping[str, Any]) -> bool:
    """Events are judged as events; a detail must be one of the record's; anything else has no support."""
    if line.claims or line.text == NOTHING.lower().rstrip("."):
        return True
    return f"{line.text}." in [detail.lower() for detail in record.get("meta", {}).get("details", ())]
