"""The instruction mix of the tiny base: every task that the three methods ask of a model, as overlay rows."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .judging import (
    ASK,
    VERDICTS,
    error,
    judge_answers,
    judge_captions,
    judge_prompt,
    read,
    read_answers,
    read_captions,
)
from .language import CAPTION_PROMPTS, INTERVALS, NOTHING, caption, details, event_rows, phrase, sentences, within
from .noise import HABITS, Noise, noisy_caption
from .questions import PLACES, Question, ask
from .questions import prompt as question_prompt
from .scene import Scene

_DRAWS_PER_ROW = 100
Row = dict[str, Any]
Task = Callable[[Scene, Noise, random.Random], "Row | None"]


@dataclass(frozen=True)
class Mix:
    """A named share of tasks, and the habits of the captions in it."""

    weights: dict[str, float]
    noise: Noise = field(default_factory=Noise)


def base_record(scene: Scene) -> Row:
    """What a shard says about a clip, itself a record: the caption prompt, the true caption, events and details."""
    rng = random.Random(f"base_record/{scene.key}")
    return {
        "id": scene.key,
        "key": scene.key,
        "prompt": rng.choice(CAPTION_PROMPTS),
        "ground_truth": caption(scene, rng),
        "mode": "sft",
        "events": event_rows(scene),
        "meta": {"task": "caption", "scope": "video", "details": details(scene), "duration_s": scene.duration_s},
    }


def rows(scene: Scene, mix: Mix, num: int, name: str = "mix") -> list[Row]:
    """`num` overlay rows of one clip, drawn from the mix; a function of the scene's address and the mix's name.

    A clip that after many draws answers none of the mix's tasks (order questions of a single event) has fewer rows.

    Raises:
        ValueError: If the mix names an unknown task.
    """
    if unknown := set(mix.weights) - set(TASKS):
        raise ValueError(f"unknown tasks {sorted(unknown)}; known: {', '.join(TASKS)}")
    rng = random.Random(f"tasks/{name}/{scene.key}")
    result: list[Row] = []
    for _ in range(_DRAWS_PER_ROW * num):
        if len(result) == num:
            break
        task = rng.choices(list(mix.weights), list(mix.weights.values()))[0]
        row = TASKS[task](scene, mix.noise, rng)
        if row is not None:
            meta = {"task": task, **row.pop("meta", {})}
            result.append(
                {"key": scene.key, "id": f"{scene.key}/{name}/{len(result)}", "mode": "sft", **row, "meta": meta}
            )
    return result


def _caption(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    return {"prompt": rng.choice(CAPTION_PROMPTS), "ground_truth": noisy_caption(scene, noise, rng)}


def _interval(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    name = rng.choice(list(INTERVALS))
    start, end = seconds(scene, name)
    return {
        "prompt": f"Describe what happens in the {name} of the video.",
        "ground_truth": noisy_caption(scene, noise, rng, (start, end)),
        "meta": {"scope": "interval", "interval": [start, end]},
    }


def seconds(scene: Scene, interval: str) -> tuple[float, float]:
    """The named interval of INTERVALS in seconds of this clip."""
    start, end = INTERVALS[interval]
    return start * scene.duration_s, end * scene.duration_s + (
        1 if end == 1 else 0
    )  # the last event may run out of time


def _question(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    return _asked(ask(scene, rng))


def _order_question(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """Which of two comes first, what comes first or last of all: what TEMPO's order is worth beyond captions."""
    return _asked(ask(scene, rng, ("order", "first/last")))


def _asked(question: Question | None) -> Row | None:
    if question is None:
        return None
    return {
        "prompt": question_prompt(question),
        "ground_truth": question["answer"],
        "meta": {"options": question["options"], "kind": question["kind"]},
    }


def _stage(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """Who stands where when the clip begins, cell by cell: every word is certain, so it teaches where to look."""
    standing = sorted((y, x, actor.name) for actor in scene.actors for x, y in [actor.cell])
    hidden = {scene.actors[e.actor].name for e in scene.of() if e.act == "appear" and e.actor is not None}
    lines = [f"The {name} is at the {PLACES[x, y]}." for y, x, name in standing if name not in hidden]
    return {"prompt": "Where does everything stand at the start?", "ground_truth": " ".join(lines) or NOTHING}


def _timeline(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """What goes on in each eighth of the clip: the events whose share of it is at least a third."""
    step = scene.duration_s / 8
    lines = []
    for part in range(8):
        shares = {e: min(e.end_s, (part + 1) * step) - max(e.start_s, part * step) for e in scene.of()}
        going_on = [phrase(scene, e) for e, share in shares.items() if share >= step / 3]
        lines.append(f"Part {part + 1}: {' and '.join(going_on) or 'nothing'}.")
    return {"prompt": "What goes on in each eighth of the video?", "ground_truth": " ".join(lines)}


def _second_clip(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """TEMPO's differential caption (methods.md 1.4, S7): the first clip is known, the second is to be told."""
    first, second = (seconds(scene, name) for name in ("first half", "second half"))
    return {
        "prompt": f"The first half of the video: {caption(scene, rng, first)} "
        "Describe the second half, which follows it.",
        "ground_truth": caption(scene, rng, second),
        "meta": {"scope": "interval", "interval": list(second)},
    }


def _paragraph(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """TEMPO's whole-video answer from a list of clip captions (S8); the list may be permuted, the answer follows it."""
    num = rng.choice((2, 3, 4))
    bounds = [scene.duration_s * i / num for i in range(num)] + [float("inf")]
    clips = [within(scene, pair) for pair in pairwise(bounds)]
    permuted = rng.random() < 0.5
    if permuted:
        rng.shuffle(clips)
    lines = [" ".join(sentences([phrase(scene, e, rng) for e in clip])) or NOTHING for clip in clips]
    listed = " ".join(f"- Caption {i + 1}: {line}" for i, line in enumerate(lines))
    return {
        "media": {"video": None},
        "prompt": f"{listed} Write one paragraph that tells the whole video in this order.",
        "ground_truth": " ".join(sentences([phrase(scene, e) for clip in clips for e in clip])),
        "meta": {"permuted": permuted},
    }


def _refine(scene: Scene, noise: Noise, rng: random.Random) -> Row:
    """ISR-DPO's context (methods.md 2.4): correct the previous description by looking again."""
    previous = noisy_caption(scene, HABITS, rng)
    return {
        "prompt": f"Here is a previous description of the video: {previous} "
        "Watch the video again and write the improved description.",
        "ground_truth": caption(scene, rng),
    }


def _judge(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """ISR-DPO's pairwise verdict (methods.md 2.4), with and without a description; ties make no question."""
    answers = [noisy_caption(scene, HABITS, rng) for _ in range(2)]
    errors = [error(scene, answer) for answer in answers]
    if errors[0] == errors[1]:
        return None
    with_context = rng.random() < 0.5
    description = caption(scene, rng) if with_context else None
    return {
        "prompt": judge_prompt(rng.choice(CAPTION_PROMPTS), answers, description, ASK),
        "ground_truth": VERDICTS[errors[0] > errors[1]],
        "meta": {"options": list(VERDICTS), "kind": "judge with context" if with_context else "judge"},
    }


def _pair(scene: Scene, noise: Noise, rng: random.Random) -> Row | None:
    """A true caption against one with habits: pairs whose truth is known, for tests and controls."""
    chosen, rejected = caption(scene, rng), noisy_caption(scene, HABITS, rng)
    if error(scene, rejected) == 0:
        return None
    return {"prompt": rng.choice(CAPTION_PROMPTS), "chosen": chosen, "rejected": rejected, "mode": "dpo"}


TASKS: dict[str, Task] = {
    "caption": _caption,
    "interval": _interval,
    "question": _question,
    "order_question": _order_question,
    "stage": _stage,
    "timeline": _timeline,
    "second_clip": _second_clip,
    "paragraph": _paragraph,
    "refine": _refine,
    "judge": _judge,
    "judge_captions": judge_captions,
    "judge_answers": judge_answers,
    "read": read,
    "read_captions": read_captions,
    "read_answers": read_answers,
    "pair": _pair,
}
MIXES = {
    # true captions and questions only: what a base needs to see
    "eyes": Mix({"timeline": 3, "stage": 1, "caption": 5, "interval": 2, "question": 4, "second_clip": 1}),
    # every task, captions with habits; the timeline stays true, so that the eyes go on learning
    "habits": Mix(
        {
            "caption": 5,
            "timeline": 2,
            "interval": 2,
            "question": 3,
            "second_clip": 1,
            "paragraph": 1,
            "refine": 1,
            "judge": 2,
        },
        HABITS,
    ),
    # verdicts, first by text alone; then with the video too, and the rest keeps eyes and habits
    "reading": Mix({"read_captions": 5, "read_answers": 3, "read": 1, "paragraph": 1}),
    "judging": Mix(
        {
            "judge_captions": 5,
            "judge_answers": 3,
            "read_captions": 3,
            "read_answers": 1,
            "paragraph": 1,
            "refine": 3,
            "caption": 3,
            "timeline": 1,
            "interval": 1,
            "question": 3,
            "second_clip": 1,
        },
        HABITS,
    ),
    "pairs": Mix({"pair": 1}),
    "captions": Mix({"caption": 1}),
    "questions": Mix({"question": 1}),
    "order_questions": Mix({"order_question": 1}),
    "intervals": Mix({"interval": 1}),
    "paragraphs": Mix({"paragraph": 1}),
    "refinements": Mix({"refine": 1}),
    "judgements": Mix({"judge": 1}),
    "verdicts": Mix({"judge_captions": 2, "judge_answers": 1}),
    "second_clips": Mix({"second_clip": 1}),
}
