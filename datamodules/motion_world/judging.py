"""Judging two answers: imperfect ones with a known number of errors, and the better response as the verdict."""

import random
from collections.abc import Sequence
from typing import Any

from .language import CAPTION_PROMPTS, PHRASINGS, caption, details, event_rows
from .noise import HABITS, Noise, noisy_caption
from .parsing import parse, score_caption
from .questions import Question, ask
from .questions import prompt as question_prompt
from .scene import Scene
from .slips import Slips, misread

VERDICTS = ("My choice is Response 1.", "My choice is Response 2.")
ASK = "Which response is better grounded in the video?"
ASK_BETTER = "Write the response that is better grounded in the video."
TRUTHFUL = Noise(verbosity=0.35, repetition=0.1)  # what a good response may do: say more than it must, rarely twice
READABLE = ("order", "first/last", "direction", "yes/no")  # kinds of questions that a description can answer

# from perfect to poor: pairs of all differences, so that easy ones lead to hard ones
EYES = (Slips(), Slips(0.1, 0.05, 0.05), Slips(0.2, 0.15, 0.15), Slips(0.5, 0.3, 0.35))
DESCRIBER = Slips(0.15, 0.1, 0.1)
Row = dict[str, Any]
DESCRIPTIONS = {"none": 2, "true": 3, "own": 3}  # shares of what stands beside two answers, where there is a video


def error(scene: Scene, text: str) -> float:
    """Event errors and discordant pairs of a caption over the number of events; what judging tasks go by."""
    counts = score_caption(text, {"events": event_rows(scene), "meta": {"details": details(scene)}})
    wrong = counts.missed + counts.incorrect + counts.hallucinated + counts.discordant_pairs
    return (wrong + 0.5 * counts.repeated_sentences) / max(1, counts.num_events)


def two_answers(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Captions by two imperfect viewers with bad habits."""
    first, second = (noisy_caption(misread(scene, rng.choice(EYES), rng), HABITS, rng) for _ in range(2))
    return first, second


def judge_prompt(question: str, answers: Sequence[str], description: str | None, ask: str = ASK_BETTER) -> str:
    """Asks for the better of two answers, with a description of the video or without."""
    context = f"Video description: {description} " if description is not None else ""
    return f"{context}Question: {question} Response 1: {answers[0]} Response 2: {answers[1]} {ask}"


def judge_captions(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """ISR-DPO's pairwise verdict on captions, as the response that should have been written; ties make no question.

    A bare verdict is one bit behind a hundred words, too little for a small language model to learn comparing texts
    from; every word of a good response is a lesson. The verdict is read off the likelihood of the two responses.
    Descriptions are true, or those of an imperfect viewer like the policy itself, or there is none.
    """
    kind = rng.choices(list(DESCRIPTIONS), list(DESCRIPTIONS.values()))[0]
    return _captions_judged(scene, kind, _description(scene, kind, rng), rng)


def read_captions(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The same by a true description alone, without the video: who can look does not learn to read."""
    return _unseen(_captions_judged(scene, "alone", caption(scene, rng), rng))


def judge_answers(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The verdict on two answers to a question, of which one is right."""
    kind = rng.choices(list(DESCRIPTIONS), list(DESCRIPTIONS.values()))[0]
    return _answers_judged(ask(scene, rng), kind, _description(scene, kind, rng), rng)


def read_answers(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The same by a true description alone, of questions that it answers."""
    return _unseen(_answers_judged(ask(scene, rng, READABLE), "alone", caption(scene, rng), rng))


def read(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """To retell a description in plain words, without the video."""
    question = rng.choice(CAPTION_PROMPTS)
    return {
        "media": {"video": None},
        "prompt": f"Video description: {caption(scene, rng)} Question: {question}",
        "ground_truth": caption(scene),
    }


def _captions_judged(scene: Scene, kind: str, description: str | None, rng: random.Random) -> Row | None:
    answers = two_answers(scene, rng)
    errors = [error(scene, answer) for answer in answers]
    if errors[0] == errors[1]:
        return None
    better = noisy_caption(scene, TRUTHFUL, rng)
    return _judged(rng.choice(CAPTION_PROMPTS), answers, description, better, kind)


def _answers_judged(question: Question | None, kind: str, description: str | None, rng: random.Random) -> Row | None:
    if question is None:
        return None
    answers = [question["answer"], _wrong(question, rng)]
    rng.shuffle(answers)
    return _judged(question_prompt(question), answers, description, question["answer"], kind)


def _wrong(question: Question, rng: random.Random) -> str:
    """Another option; of options that tell events half of the time its actor with the right act, as small models do."""
    option: str = rng.choice([option for option in question["options"] if option != question["answer"]])
    claims = [claim for text in (option, question["answer"]) for line in parse(text) for claim in line.claims]
    if len(claims) < 2 or rng.random() < 0.5:
        return option
    mixed = f"the {claims[0][0]} {PHRASINGS[claims[1][1]][0]}"
    return mixed if mixed != question["answer"] else option


def _judged(question: str, answers: Sequence[str], description: str | None, better: str, kind: str) -> Row:
    return {
        "prompt": judge_prompt(question, answers, description),
        "ground_truth": better,
        "meta": {"kind": f"description: {kind}"},
    }


def _unseen(row: Row | None) -> Row | None:
    return None if row is None else row | {"media": {"video": None}}


def _description(scene: Scene, kind: str, rng: random.Random) -> str | None:
    if kind == "none":
        return None
    if kind == "true":
        return caption(scene, rng)
    # c_0 comes from a plain prompt and has the habits of captions; later ones were asked to be improved
    return noisy_caption(misread(scene, DESCRIBER, rng), rng.choice((HABITS, Noise())), rng)
