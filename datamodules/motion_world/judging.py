"""Judging two answers: imperfect ones with a known number of errors, and a verdict that gives its reasons first."""

import math
import random
from collections.abc import Sequence
from typing import Any

from .language import CAPTION_PROMPTS, NOTHING, PHRASINGS, caption, details, event_rows, phrase, sentences, within
from .noise import HABITS, Noise, noisy_caption
from .parsing import parse, score_caption
from .questions import Question, ask
from .questions import prompt as question_prompt
from .scene import Scene
from .slips import Slips, misread

VERDICTS = ("My choice is Response 1.", "My choice is Response 2.")
ASK = "Which response is better grounded in the video?"
NUMBERS = range(1, 10)
READABLE = ("order", "first/last", "direction", "yes/no")  # kinds of questions that a description can answer

# from perfect to poor: pairs of all differences, so that easy ones lead to hard ones
EYES = (Slips(), Slips(0.1, 0.05, 0.05), Slips(0.2, 0.15, 0.15), Slips(0.5, 0.3, 0.35))
DESCRIBER = Slips(0.15, 0.1, 0.1)
SCATTERED = Slips(0.3, 0.4, 0.4)
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


def two_lists(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Captions whose events stand in no order: whoever reads line by line in step with a description cannot judge."""
    first, second = (_shuffled(misread(scene, SCATTERED, rng), rng) for _ in range(2))
    return first, second


def _shuffled(scene: Scene, rng: random.Random) -> str:
    phrases = [phrase(scene, event, rng) for event in within(scene)]
    rng.shuffle(phrases)
    return " ".join(sentences(phrases, rng)) or NOTHING


def judge_prompt(question: str, answers: Sequence[str], description: str | None) -> str:
    """Asks for the better of two answers, with a description of the video or without."""
    context = f"Video description: {description} " if description is not None else ""
    return f"{context}Question: {question} Response 1: {answers[0]} Response 2: {answers[1]} {ASK}"


def judge_captions(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """ISR-DPO's pairwise verdict on captions, with its reasons before it; ties make no question.

    A bare verdict is one bit behind a hundred words, too little for a small language model to learn comparing texts
    from. The reasons list what happens and look up in the list what is told, so that each step is a look at few words.
    Descriptions are true, or those of an imperfect viewer like the policy itself, or there is none.
    """
    kind = rng.choices(list(DESCRIPTIONS), list(DESCRIPTIONS.values()))[0]
    return _captions_judged(scene, kind, _description(scene, kind, rng), two_answers(scene, rng), rng)


def read_captions(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The same by a true description alone, without the video: who can look does not learn to read."""
    return _unseen(_captions_judged(scene, "alone", caption(scene, rng), two_answers(scene, rng), rng))


def read_lists(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The same of captions without order, from which looking up is learnt first."""
    return _unseen(_captions_judged(scene, "alone", caption(scene, rng), two_lists(scene, rng), rng))


def judge_answers(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """The verdict on two answers to a question, of which one is right; the reason is the right answer."""
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


def reasons(scene: Scene, answers: Sequence[str], rng: random.Random) -> str:
    """What a judge says before its verdict on captions: what happens, numbered; then of each answer the same of what it
    tells (0: it did not happen), which numbers it leaves out, and the number of its errors, rounded up.

    Numbers rise, with gaps: of consecutive ones a small model learns to count and never to look them up.
    """
    events = [(scene.actors[event.actor].name, event.act) for event in within(scene) if event.actor is not None]
    rising = sorted(rng.sample(NUMBERS, len(events)))
    numbers = dict(reversed(list(zip(events, rising, strict=True))))  # of an event that happens twice the first
    lines = [_told(*event, number) for event, number in zip(events, rising, strict=True)]
    for place, answer in enumerate(answers, 1):
        claims = [claim for line in parse(answer) for claim in line.claims]
        told = [_told(*claim, numbers.get(claim, 0)) for claim in claims]
        left_out = ":".join(["no", *(str(numbers[event]) for event in dict.fromkeys(events) if event not in claims)])
        num_errors = math.ceil(error(scene, answer) * max(1, len(events)))
        lines.append(" ".join([f"Response {place}:", *told, f"{left_out}. in all {num_errors}."]))
    return " ".join(lines)


def _told(actor: str, act: str, number: int) -> str:
    return f"{actor} {PHRASINGS[act][0]}:{number}."


def _captions_judged(
    scene: Scene, kind: str, description: str | None, answers: Sequence[str], rng: random.Random
) -> Row | None:
    errors = [error(scene, answer) for answer in answers]
    if errors[0] == errors[1]:
        return None
    notes = reasons(scene, answers, rng)
    return _judged(rng.choice(CAPTION_PROMPTS), answers, description, notes, int(errors[0] > errors[1]), kind)


def _answers_judged(question: Question | None, kind: str, description: str | None, rng: random.Random) -> Row | None:
    if question is None:
        return None
    right, wrong = question["answer"], _wrong(question, rng)
    better = rng.randrange(2)
    answers = (wrong, right) if better else (right, wrong)
    return _judged(question_prompt(question), answers, description, f"{right}.", better, kind)


def _wrong(question: Question, rng: random.Random) -> str:
    """Another option; of options that tell events half of the time its actor with the right act, as small models do."""
    option: str = rng.choice([option for option in question["options"] if option != question["answer"]])
    claims = [claim for text in (option, question["answer"]) for line in parse(text) for claim in line.claims]
    if len(claims) < 2 or rng.random() < 0.5:
        return option
    mixed = f"the {claims[0][0]} {PHRASINGS[claims[1][1]][0]}"
    return mixed if mixed != question["answer"] else option


def _judged(question: str, answers: Sequence[str], description: str | None, notes: str, better: int, kind: str) -> Row:
    return {
        "prompt": judge_prompt(question, answers, description),
        "ground_truth": f"{notes} {VERDICTS[better]}",
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
