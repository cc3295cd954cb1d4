"""Errors of perception: a scene as an imperfect viewer sees it, whose captions err as a small model's do."""

import random
from dataclasses import dataclass, fields, replace

from .language import PHRASINGS
from .scene import COLOURS, SHAPES, Actor, Event, Scene


@dataclass(frozen=True)
class Slips:
    """How an imperfect viewer sees: errors of perception, where `Noise` has those of telling.

    Args:
        missed: Probability that an event is not seen.
        wrong: Probability that it is seen as another act, or as that of another colour or shape.
        invented: Probability of an event that did not happen, and of each further one.

    Raises:
        ValueError: If a probability is outside [0, 1), or `missed` and `wrong` are more than 1 together.
    """

    missed: float = 0.0
    wrong: float = 0.0
    invented: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < 1:
                raise ValueError(f"slips.{field.name} is a probability in [0, 1), got {value}")
        if self.missed + self.wrong > 1:
            raise ValueError(f"slips.missed + slips.wrong must be <= 1, got {self.missed} + {self.wrong}")


def misread(scene: Scene, slips: Slips, rng: random.Random) -> Scene:
    """The scene as an imperfect viewer sees it, sounds left out; whoever is mistaken stands in the cell of the true."""
    actors, events = list(scene.actors), []
    for event in scene.of():
        fate = rng.random()
        if fate < slips.missed:
            continue
        events.append(_mistaken(event, actors, rng) if fate < slips.missed + slips.wrong else event)
    while rng.random() < slips.invented:
        start = rng.uniform(0, scene.duration_s)
        act, actor = rng.choice(list(PHRASINGS)), rng.randrange(len(scene.actors))
        events.append(_mistaken(Event(actor, act, start, start), actors, rng))
    return replace(scene, actors=tuple(actors), events=tuple(events))


def _mistaken(event: Event, actors: list[Actor], rng: random.Random) -> Event:
    """The event with another act, or by an actor of another colour or shape, who joins the actors."""
    if rng.random() < 0.5:
        return replace(event, act=rng.choice([act for act in PHRASINGS if act != event.act]))
    assert event.actor is not None
    true = actors[event.actor]
    if rng.random() < 0.6:
        actor = replace(true, colour=rng.choice([colour for colour in COLOURS if colour != true.colour]))
    else:
        actor = replace(true, shape=rng.choice([shape for shape in SHAPES if shape != true.shape]))
    actors.append(actor)
    return replace(event, actor=len(actors) - 1)
