"""A judge's written verdict on two answers: which one it names.

ISR-DPO shows one verdict alone, "My choice is ... y1!" (arXiv 2406.11280, overview figure), and no parser; the rules
are ours (methods.md 2.4 of the design), stricter where taking the last number would guess.
"""

import re
from typing import Literal, TypeAlias

Place: TypeAlias = Literal[1, 2]

# how a verdict is worded, the plainest first: what is called the choice stands over what is called better in passing
_CUES = (r"choice|choose|chose", r"prefer", r"better|best")
_MARKS = r"[\s\"'`*(\[:]*"
# where a bare 1 or A is a label: "mentions 2 dogs" and "A dog" name no response
_END = r"(?=[\s\"'`*)\]]*(?:$|[.!?,;:](?!\d)|(?:because|since|as|over|than|rather|not|for|is|to)\b))"
_LABEL = re.compile(
    rf"\b(?:response|answer|option|candidate){_MARKS}(?P<named>y?[12]|[ab])\b"
    rf"|\by(?P<y>[12])\b|(?<![\w.,])(?P<number>[12]){_END}|(?<!\w)(?P<letter>(?-i:[AB])){_END}",
    re.IGNORECASE,
)
# what follows such a word is the answer that was not chosen
_PASSED_OVER = re.compile(r"\b(?:than|over|above|not|instead of|rather than|to)(?:\s+the)?[\s\"'`*(]*$", re.IGNORECASE)
_NO_CHOICE = re.compile(r"\b(?:not|neither|nor|cannot|equally)\b|n['\u2019]t\b", re.IGNORECASE)


def parse_verdict(text: str) -> Place | None:
    """Which of two responses a reply prefers.

    Of its sentences those with the plainest word for a verdict count (choice, then prefer, then better). A response
    that is named behind "than", "over", "not", "rather than" is the one passed over. A reply that is a label and
    nothing else is a verdict too.

    Args:
        text: The reply; reasoning before or after the verdict does not matter.

    Returns:
        1 or 2; None where it names none or both, or where two such sentences contradict each other.
    """
    if (label := _LABEL.fullmatch(text.strip(" \t\n\"'`*.!()[]"))) is not None:
        return _place(label)
    joined = re.sub(r":\s*\n+", ": ", re.sub(r"\.{2,}|…", " ", text))
    sentences = re.split(r"(?<=[.!?;])\s+|\n+", joined)
    for cue in _CUES:
        told = [sentence for sentence in sentences if re.search(rf"\b(?:{cue})", sentence, re.IGNORECASE)]
        if told:
            places = {_named(sentence) for sentence in told}
            return places.pop() if len(places) == 1 else None
    return None


def _named(sentence: str) -> Place | None:
    """The one response that a sentence prefers."""
    chosen, rest = set[Place](), sentence
    for label in reversed(list(_LABEL.finditer(sentence))):
        passed_over = _PASSED_OVER.search(sentence[: label.start()])
        if passed_over is None:
            chosen.add(_place(label))
        else:
            rest = rest[: passed_over.start()] + rest[label.end() :]
    return chosen.pop() if len(chosen) == 1 and not _NO_CHOICE.search(rest) else None


def _place(label: re.Match[str]) -> Place:
    name = next(group for group in label.groups() if group)[-1]
    return 1 if name in "1aA" else 2
