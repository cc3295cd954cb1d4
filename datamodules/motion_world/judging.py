"""Judging two answers: imperfect ones with a known number of errors, and a verdict that quotes the better one."""

import random
from collections.abc import Sequence
from typing import Any

from .language import CAPTION_PROMPTS, caption, details, event_rows
from .noise import HABITS, Noise, noisy_caption
from .parsing import score_caption
from .scene import Scene
from .slips import Slips, misread

VERDICTS = ("My choice is Response 1.", "My choice is Response 2.")
QUOTES = ("{first} My choice is Response 1.", "{second} My choice is Response 2.")
ASK = "Which response is better grounded in the video?"
ASK_QUOTE = "Quote the response that is better grounded in the video."

# from perfect to poor: pairs of all differences, so that easy ones lead to hard ones
EYES = (Slips(), Slips(0.1, 0.05, 0.05), Slips(0.2, 0.15, 0.15), Slips(0.5, 0.3, 0.35))
DESCRIBER = Slips(0.15, 0.1, 0.1)
Row = dict[str, Any]
DESCRIPTIONS = {"none": 2, "true": 3, "own": 3}  # shares of what stands beside two answers in `quote`


def error(scene: Scene, text: str) -> float:
    """Event errors and discordant pairs of a caption over the number of events; what judging tasks go by."""
    counts = score_caption(text, {"events": event_rows(scene), "meta": {"details": details(scene)}})
    wrong = counts.missed + counts.incorrect + counts.hallucinated + counts.discordant_pairs
    return (wrong + 0.5 * counts.repeated_sentences) / max(1, counts.num_events)


def two_answers(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Captions by two imperfect viewers with bad habits."""
    first, second = (noisy_caption(misread(scene, rng.choice(EYES), rng), HABITS, rng) for _ in range(2))
    return first, second


def judge_prompt(question: str, answers: Sequence[str], description: str | None, ask: str = ASK_QUOTE) -> str:
    """Asks for the better of two answers, with a description of the video or without."""
    context = f"Video description: {description} " if description is not None else ""
    return f"{context}Question: {question} Response 1: {answers[0]} Response 2: {answers[1]} {ask}"


def quotes(answers: Sequence[str]) -> list[str]:
    """The two verdicts: the answer itself, then its number."""
    return [text.format(first=answers[0], second=answers[1]) for text in QUOTES]


def quote(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """ISR-DPO's pairwise verdict, told by quoting the better answer; ties make no question.

    A bare verdict is one bit in a hundred words, too little for a small language model to learn comparing texts from.
    A quotation is learnt as copying, word by word, and where the two answers part it must choose. Descriptions are
    true, or those of an imperfect viewer like the policy itself, or there is none.
    """
    kind = rng.choices(list(DESCRIPTIONS), list(DESCRIPTIONS.values()))[0]
    return _quoted(scene, kind, _description(scene, kind, rng), rng)


def read_quote(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The same by a true description alone, without the video: who can look does not learn to read."""
    row = _quoted(scene, "alone", caption(scene, rng), rng)
    return None if row is None else row | {"media": {"video": None}}


def read(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """To retell a description in plain words, without the video."""
    question = rng.choice(CAPTION_PROMPTS)
    return {
        "media": {"video": None},
        "prompt": f"Video description: {caption(scene, rng)} Question: {question}",
        "ground_truth": caption(scene),
    }


def _quoted(scene: Scene, kind: str, description: str | None, rng: random.Random) -> Row | None:
    answers = two_answers(scene, rng)
    errors = [error(scene, answer) for answer in answers]
    if errors[0] == errors[1]:
        return None
    options = quotes(answers)
    return {
        "prompt": judge_prompt(rng.choice(CAPTION_PROMPTS), answers, description),
        "ground_truth": options[errors[0] > errors[1]],
        "meta": {"options": options, "kind": f"quote, description: {kind}"},
    }


def _description(scene: Scene, kind: str, rng: random.Random) -> str | None:
    if kind == "none":
        return None
    if kind == "true":
        return caption(scene, rng)
    # c_0 comes from a plain prompt and has the habits of captions; later ones were asked to be improved
    return noisy_caption(misread(scene, DESCRIBER, rng), rng.choice((HABITS, Noise())), rng)
