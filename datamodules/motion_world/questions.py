"""Questions with options, by kind; the answer is one option's text."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from .language import PHRASINGS, SOUND_PHRASINGS, phrase
from .scene import COLOURS, DIRECTIONS, SOUNDS, Scene

Question = dict[str, Any]  # {kind, question, options, answer}
Asker = Callable[[Scene, random.Random], "Question | None"]

PLACES = {
    (x, y): name
    for y, row in enumerate(
        (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))
    )
    for x, name in enumerate(row)
}


def ask(
    scene: Scene, rng: random.Random, kinds: Sequence[str] | None = None, modalities: Sequence[str] = ("visual",)
) -> Question | None:
    """A question of a random kind that this clip can answer, or None if it can answer none of the kinds.

    Returns:
        {kind, question, options (2 to 4 texts, shuffled), answer}.

    Raises:
        ValueError: If a kind is unknown.
    """
    known = {k: f for k, f in _ASKERS.items() if k != "sound" or "audio" in modalities}
    if unknown := set(kinds or ()) - set(_ASKERS):
        raise ValueError(f"unknown question kinds {sorted(unknown)}; known: {', '.join(_ASKERS)}")
    for kind in rng.sample(list(known), len(known)):
        if (kinds is None or kind in kinds) and (question := known[kind](scene, rng)):
            rng.shuffle(question["options"])
            return {"kind": kind, **question}
    return None


def prompt(question: Question) -> str:
    """The question as the model sees it, options included."""
    return f"{question['question']} Options: {'; '.join(question['options'])}."


def _order(scene: Scene, rng: random.Random) -> Question | None:
    events = scene.of()
    if len(events) < 2:
        return None
    i, j = sorted(rng.sample(range(len(events)), 2))
    options = [phrase(scene, events[i]), phrase(scene, events[j])]
    return {"question": "Which happens first?", "answer": options[0], "options": options}


def _extreme(scene: Scene, rng: random.Random) -> Question | None:
    events = scene.of()
    if len(events) < 3:
        return None
    last = rng.random() < 0.5
    texts = [phrase(scene, e) for e in events]
    answer = texts.pop(-1 if last else 0)
    return {
        "question": f"What happens {'last' if last else 'first'} of all?",
        "answer": answer,
        "options": [answer, *rng.sample(texts, min(3, len(texts)))],
    }


def _direction(scene: Scene, rng: random.Random) -> Question | None:
    moves = [e for e in scene.of() if e.act.startswith("move")]
    moves = [e for e in moves if sum(o.actor == e.actor for o in moves) == 1]
    if not moves:
        return None
    event = rng.choice(moves)
    assert event.actor is not None
    name = scene.actors[event.actor].name
    return {"question": f"Which way does the {name} move?", "answer": event.act.split()[1], "options": list(DIRECTIONS)}


def _count(scene: Scene, rng: random.Random) -> Question | None:
    numbers = ["one", "two", "three", "four"]
    return {"question": "How many shapes are there?", "answer": numbers[len(scene.actors) - 1], "options": numbers}


def _colour(scene: Scene, rng: random.Random) -> Question | None:
    shapes = [a.shape for a in scene.actors]
    unique = [i for i, s in enumerate(shapes) if shapes.count(s) == 1]
    turning = {e.actor for e in scene.of() if e.act.startswith("turn")}
    unique = [i for i in unique if i not in turning]
    if not unique:
        return None
    actor = scene.actors[rng.choice(unique)]
    others = rng.sample([c for c in COLOURS if c != actor.colour], 3)
    return {
        "question": f"What colour is the {actor.shape}?",
        "answer": actor.colour,
        "options": [actor.colour, *others],
    }


def _place(scene: Scene, rng: random.Random) -> Question | None:
    actor = rng.choice(scene.actors)
    answer = PLACES[actor.cell]
    others = rng.sample([p for p in PLACES.values() if p != answer], 3)
    return {"question": f"Where is the {actor.name} first seen?", "answer": answer, "options": [answer, *others]}


def _duration(scene: Scene, rng: random.Random) -> Question | None:
    """Longer or shorter; only where the two differ by at least half a second."""
    events = scene.of()
    seconds = [e.end_s - e.start_s for e in events]
    pairs = [(i, j) for i in range(len(events)) for j in range(len(events)) if seconds[i] - seconds[j] >= 0.5]
    if not pairs:
        return None
    long, short = (phrase(scene, events[i]) for i in rng.choice(pairs))
    word = rng.choice(("longer", "shorter"))
    return {"question": f"Which takes {word}?", "answer": long if word == "longer" else short, "options": [long, short]}


def _yes_no(scene: Scene, rng: random.Random) -> Question | None:
    events, yes = scene.of(), rng.random() < 0.5
    index = rng.randrange(len(scene.actors))
    acts = {e.act for e in events if e.actor == index}
    candidates = sorted(acts) if yes else [a for a in PHRASINGS if a not in acts]
    if not candidates:
        return None
    claim = f"the {scene.actors[index].name} {PHRASINGS[rng.choice(candidates)][0]}"
    return {"question": f"Is it true that {claim}?", "answer": "yes" if yes else "no", "options": ["yes", "no"]}


def _sound(scene: Scene, rng: random.Random) -> Question | None:
    """Which sound is heard during a visual event; only where exactly one sound overlaps it."""
    sounds = scene.of(("audio",))
    hits = [(event, [s for s in sounds if s.start_s < event.end_s and s.end_s > event.start_s]) for event in scene.of()]
    hits = [(event, heard) for event, heard in hits if len(heard) == 1]
    if not hits:
        return None
    event, heard = rng.choice(hits)
    options = [SOUND_PHRASINGS[s][0] for s in SOUNDS]
    return {
        "question": f"What is heard while {phrase(scene, event)}?",
        "answer": SOUND_PHRASINGS[heard[0].act][0],
        "options": options,
    }


_ASKERS: dict[str, Asker] = {
    "order": _order,
    "first/last": _extreme,
    "direction": _direction,
    "count": _count,
    "colour": _colour,
    "place": _place,
    "longer/shorter": _duration,
    "yes/no": _yes_no,
    "sound": _sound,
}
KINDS = tuple(_ASKERS)
