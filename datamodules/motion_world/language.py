"""Events as English: phrasings of an act, captions of a whole clip or of an interval, extra clauses."""

import random
from collections.abc import Sequence
from typing import Any

from .scene import COLOURS, DIRECTIONS, Event, Scene

# Every phrasing of a verb, the plain one first. `parsing.py` reads exactly these.
PHRASINGS: dict[str, tuple[str, ...]] = {
    **{f"move {d}": (f"moves {d}", f"slides {d}", f"goes {d}") for d in DIRECTIONS},
    "grow": ("grows", "gets bigger"),
    "shrink": ("shrinks", "gets smaller"),
    "spin": ("spins", "rotates"),
    "blink": ("blinks", "flashes"),
    "appear": ("appears", "shows up"),
    "disappear": ("disappears", "vanishes"),
    **{f"turn {c}": (f"turns {c}", f"becomes {c}") for c in COLOURS},
}
SOUND_PHRASINGS = {
    "high beep": ("a high beep sounds",),
    "low beep": ("a low beep sounds",),
    "click train": ("clicks are heard",),
    "sweep": ("a rising tone sounds",),
}
FIRST, NEXT, LAST = ("First", "At first"), ("Then", "Next", "After that"), ("Finally", "In the end")
FILLERS = (
    "It is a lovely sunny day.",
    "The whole scene feels calm and dreamy.",
    "Someone seems to be very happy about it.",
    "It reminds the viewer of an old movie.",
)
CAPTION_PROMPTS = (
    "Describe the video in detail.",
    "What happens in the video?",
    "Explain the progression of events from start to finish in the video.",
    "Write a caption for the video.",
)
INTERVALS: dict[str, tuple[float, float]] = {  # name -> share of the clip
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "middle": (0.25, 0.75),
}


def phrase(scene: Scene, event: Event, rng: random.Random | None = None) -> str:
    """`the red square moves left`; the plain phrasing, or a random one where a generator is given."""
    if event.actor is None:
        return SOUND_PHRASINGS[event.act][0]
    verbs = PHRASINGS[event.act]
    return f"the {scene.actors[event.actor].name} {rng.choice(verbs) if rng else verbs[0]}"


def sentences(phrases: Sequence[str], rng: random.Random | None = None) -> list[str]:
    """Joins event phrases to sentences with connectives: `First, the ... . Then the ... . Finally, the ... .`"""
    result = []
    for i, text in enumerate(phrases):
        if len(phrases) == 1:
            result.append(text[0].upper() + text[1:] + ".")
            continue
        words = FIRST if i == 0 else LAST if i == len(phrases) - 1 else NEXT
        word = rng.choice(words) if rng else words[0]
        result.append(f"{word}{' ' if words is NEXT else ', '}{text}.")
    return result


def caption(
    scene: Scene,
    rng: random.Random | None = None,
    interval: tuple[float, float] | None = None,
    modalities: Sequence[str] = ("visual",),
) -> str:
    """The true caption of the whole clip, or of an interval in seconds, in one of its phrasings.

    An event belongs to an interval if its middle lies in it. Where nothing happens, the caption says so.
    """
    return " ".join(sentences([phrase(scene, e, rng) for e in within(scene, interval, modalities)], rng)) or NOTHING


NOTHING = "Nothing happens."


def within(
    scene: Scene, interval: tuple[float, float] | None = None, modalities: Sequence[str] = ("visual",)
) -> list[Event]:
    """The events whose middle lies in [start, end), in the order in which they start."""
    start, end = interval or (0.0, float("inf"))
    return [e for e in scene.of(modalities) if start <= (e.start_s + e.end_s) / 2 < end]


def details(scene: Scene) -> list[str]:
    """True clauses that no event needs: background, camera, number of shapes."""
    num_shapes = len({actor.cell for actor in scene.actors})  # one thing that is taken for two stands in one cell
    number = ("one shape", "two shapes", "three shapes", "four shapes")[num_shapes - 1]
    return [
        f"The background is {'textured' if scene.texture else 'plain'}.",
        f"The camera {'drifts' if any(scene.pan) else 'stands still'}.",
        f"There {'is' if num_shapes == 1 else 'are'} {number} in all.",
    ]


def true_caption(record: dict[str, Any]) -> str:
    """A record's visible events as the plain caption of its whole clip, whatever its prompt asks about."""
    return " ".join(sentences([e["text"] for e in record["events"] if e["modality"] == "visual"])) or NOTHING


def event_rows(scene: Scene) -> list[dict[str, Any]]:
    """The record's `events`: text, start_s, end_s, modality, visual and audio together in order of start."""
    events = scene.of(("visual", "audio"))
    return [{"text": phrase(scene, e), "start_s": e.start_s, "end_s": e.end_s, "modality": e.modality} for e in events]
