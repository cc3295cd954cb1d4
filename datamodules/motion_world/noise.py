"""Bad habits for captions: the weakly aligned SFT data that preference learning is meant to cure."""

import random
from dataclasses import dataclass, fields

from .language import FILLERS, NOTHING, details, phrase, sentences, within
from .scene import ACTS, COLOURS, SHAPES, Actor, Event, Scene


@dataclass(frozen=True)
class Noise:
    """How often a caption shows each habit; every value is a probability in [0, 1].

    They are *habits*, not blur: events in the wrong order are listed by colour, dropped events are the last ones
    listed, and short captions are padded with restatements. A model trained on them shows them in its greedy captions
    too.

    Args:
        order: Events are listed by colour and shape instead of time.
        drop: The caption stops early: the last third of the events (at least one of two) is left out.
        hallucinate: An event that did not happen is inserted.
        verbosity: One or two clauses that no event needs: true details or unsupported filler.
        repetition: An event is told again. Captions of up to two events do so twice as often, longer ones half as
            often.

    Raises:
        ValueError: If a probability is outside [0, 1].
    """

    order: float = 0.0
    drop: float = 0.0
    hallucinate: float = 0.0
    verbosity: float = 0.0
    repetition: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ValueError(f"noise.{field.name} is a probability in [0, 1], got {value}")


HABITS = Noise(order=0.7, drop=0.3, hallucinate=0.15, verbosity=0.35, repetition=0.3)


def noisy_caption(scene: Scene, noise: Noise, rng: random.Random, interval: tuple[float, float] | None = None) -> str:
    """A caption of the clip (or interval) with the given habits; `Noise()` gives a true one in a random phrasing."""
    events = within(scene, interval)
    if not events:
        return NOTHING
    if rng.random() < noise.order:
        events.sort(key=lambda e: _by_colour(scene, e))
    if len(events) > 1 and rng.random() < noise.drop:
        events = events[: len(events) - max(1, len(events) // 3)]
    phrases = [phrase(scene, event, rng) for event in events]
    if rng.random() < noise.hallucinate:
        phrases.insert(rng.randint(0, len(phrases)), _invented(scene, rng))
    lines = sentences(phrases, rng)
    if rng.random() < min(1.0, noise.repetition * (2 if len(phrases) <= 2 else 0.5)):
        lines.append(f"Again, {rng.choice(phrases)}.")
    if rng.random() < noise.verbosity:
        lines += rng.sample([*details(scene), *FILLERS], rng.choice((1, 2)))
    return " ".join(lines)


def _by_colour(scene: Scene, event: Event) -> tuple[int, int]:
    assert event.actor is not None
    actor = scene.actors[event.actor]
    return list(COLOURS).index(actor.colour), SHAPES.index(actor.shape)


def _invented(scene: Scene, rng: random.Random) -> str:
    """An event that did not happen: half of the time by an actor that is there."""
    happened = {(e.actor, e.act) for e in scene.of()}
    while True:
        act = rng.choice(ACTS)
        act = f"turn {rng.choice(list(COLOURS))}" if act == "turn" else act
        if rng.random() < 0.5:
            index = rng.randrange(len(scene.actors))
            if (index, act) not in happened:
                return phrase(scene, Event(index, act, 0, 0), rng)
            continue
        ghost = Actor(rng.choice(list(COLOURS)), rng.choice(SHAPES), (0, 0))
        if all(ghost.name != actor.name for actor in scene.actors):
            stage = Scene(scene.split, scene.seed, scene.index, scene.duration_s, (ghost,), (), (0, 0), 0, 0)
            return phrase(stage, Event(0, act, 0, 0), rng)
