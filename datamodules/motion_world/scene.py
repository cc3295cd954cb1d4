"""What happens in a clip: actors on a 3 x 3 grid, events, sounds, camera; a function of (split, seed, index)."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]
Modality = Literal["visual", "audio"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 235),
    "yellow": (230, 215, 50),
    "white": (240, 240, 240),
    "purple": (165, 50, 205),
}
SHAPES = ("square", "circle", "triangle", "cross")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SOUNDS = ("high beep", "low beep", "click train", "sweep")
MOVES = tuple(f"move {direction}" for direction in DIRECTIONS)
ACTS = (*MOVES, "grow", "shrink", "spin", "blink", "appear", "disappear", "turn")  # "turn" names its colour: "turn red"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_KEY = re.compile(rf"(?P<split>{'|'.join(SPLITS)})-(?P<seed>0|-?[1-9]\d*)-(?P<index>\d{{6}}|[1-9]\d{{6,}})")

GRID = 3
MIN_SECONDS, MAX_SECONDS = 4.0, 12.0


@dataclass(frozen=True)
class Actor:
    """A shape, named by the colour it starts with; `cell` is its (column, row) on the grid at the start."""

    colour: str
    shape: str
    cell: tuple[int, int]

    @property
    def name(self) -> str:
        """`red square`."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Event:
    """One atomic event.

    `actor` is an index into the scene's actors, None for a sound; `act` is `move left`, `turn red`, `grow`, ..., or the
    sound's name. `distance` (cells) belongs to moves.
    """

    actor: int | None
    act: str
    start_s: float
    end_s: float
    modality: Modality = "visual"
    distance: int = 0


@dataclass(frozen=True)
class Scene:
    """All there is to know about a clip. `pan` is the camera's whole drift in units of the frame side."""

    split: Split
    seed: int
    index: int
    duration_s: float
    actors: tuple[Actor, ...]
    events: tuple[Event, ...]
    pan: tuple[float, float]
    texture: float
    brightness: int

    @property
    def key(self) -> str:
        """The sample key, unique over splits and seeds."""
        return f"{self.split}-{self.seed}-{self.index:06d}"

    def of(self, modalities: Sequence[str] = ("visual",)) -> list[Event]:
        """The events of the given modalities in the order in which they start."""
        return sorted((e for e in self.events if e.modality in modalities), key=lambda e: e.start_s)


def held_out(colour: str, shape: str, act: str) -> bool:
    """Whether a colour x shape x act combination is kept for the test split alone (about one in twelve)."""
    digest = hashlib.sha256(f"{colour} {shape} {act.split()[0] if act.startswith('turn') else act}".encode()).digest()
    return digest[0] % 12 == 0


def sample_scene(split: Split, seed: int, index: int) -> Scene:
    """Draws the scene with this address; the same address gives the same scene on every machine.

    Raises:
        ValueError: If the split is not one of train, validation, test.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    rng = random.Random(f"motion_world/{split}/{seed}/{index}")
    while True:
        actors = _sample_actors(rng)
        acts = _Script(rng, actors, allow_held_out=split == "test").write(
            rng.choices((1, 2, 3, 4, 5), (1, 4, 6, 6, 3))[0]
        )
        if acts:
            break
    events, duration = _time(rng, acts)
    pan = (rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)) if rng.random() < 0.4 else (0.0, 0.0)
    texture = rng.uniform(6, 22) if rng.random() < 0.5 else 0.0
    return Scene(
        split, seed, index, duration, actors, tuple(events + _sounds(rng, duration)), pan, texture, rng.randint(18, 60)
    )


def scene_of(key: str) -> Scene:
    """The scene of a sample key: its address stands in it.

    Raises:
        ValueError: If the key is not one of MotionWorld's.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no key of MotionWorld (split-seed-index): its clips alone have known tasks")
    scene = sample_scene(found["split"], int(found["seed"]), int(found["index"]))  # type: ignore[arg-type]
    assert scene.key == key
    return scene


def _sample_actors(rng: random.Random) -> tuple[Actor, ...]:
    num = rng.choices((1, 2, 3, 4), (1, 3, 4, 3))[0]
    looks = rng.sample([(c, s) for c in COLOURS for s in SHAPES], num)
    cells = rng.sample([(x, y) for x in range(GRID) for y in range(GRID)], num)
    return tuple(Actor(c, s, cell) for (c, s), cell in zip(looks, cells, strict=True))


class _Script:
    """Writes the acts one after another, keeping the stage possible: no collisions, nobody acts before it appears."""

    def __init__(self, rng: random.Random, actors: tuple[Actor, ...], allow_held_out: bool) -> None:
        self.rng, self.actors, self.allow_held_out = rng, actors, allow_held_out
        self.cells = [actor.cell for actor in actors]
        self.done: list[list[str]] = [[] for _ in actors]

    def write(self, num_events: int) -> list[tuple[int, str, int]]:
        """Returns (actor, act, distance) triples, empty where the draw ran into a dead end."""
        acts = []
        for _ in range(num_events):
            choices = [(i, act, d) for i in range(len(self.actors)) for act, d in self._possible(i)]
            if not choices:
                return []
            # acts first, then who does it: otherwise moves, which have most variants, crowd out the rest
            act_kind = self.rng.choice(sorted({_kind(act) for _, act, _ in choices}, key=ACT_KINDS.index))
            i, act, distance = self.rng.choice([c for c in choices if _kind(c[1]) == act_kind])
            self.done[i].append(act)
            if act.startswith("move"):
                self.cells[i] = _target(self.cells[i], act, distance)
            acts.append((i, act, distance))
        return acts

    def _possible(self, i: int) -> list[tuple[str, int]]:
        actor, done = self.actors[i], self.done[i]
        if any(act == "disappear" or act.startswith("turn") for act in done):
            return []  # gone, or no longer called by its name
        acts: list[tuple[str, int]] = [(a, 0) for a in ("grow", "shrink", "blink", "disappear") if a not in done]
        if actor.shape != "circle" and "spin" not in done:
            acts.append(("spin", 0))  # a spinning circle cannot be seen
        if not done:
            acts.append(("appear", 0))
        taken = {(a.colour, a.shape) for a in self.actors}
        acts += [(f"turn {c}", 0) for c in COLOURS if (c, actor.shape) not in taken]
        acts += [(m, d) for m in MOVES if m not in done for d in (1, 2) if self._free(i, m, d)]
        return [(a, d) for a, d in acts if self.allow_held_out or not held_out(actor.colour, actor.shape, a)]

    def _free(self, i: int, act: str, distance: int) -> bool:
        others = {cell for j, cell in enumerate(self.cells) if j != i}
        path = [_target(self.cells[i], act, step) for step in range(1, distance + 1)]
        return all(0 <= x < GRID and 0 <= y < GRID and (x, y) not in others for x, y in path)


ACT_KINDS = ("move horizontally", "move vertically", *ACTS[4:])


def _kind(act: str) -> str:
    if act.startswith("move"):
        return "move horizontally" if act in ("move left", "move right") else "move vertically"
    return act.split()[0]


def _target(cell: tuple[int, int], act: str, distance: int) -> tuple[int, int]:
    dx, dy = DIRECTIONS[act.split()[1]]
    return cell[0] + dx * distance, cell[1] + dy * distance


def _time(rng: random.Random, acts: list[tuple[int, str, int]]) -> tuple[list[Event], float]:
    """Puts acts on the clock: mostly one after another, now and then the next starts before the last has ended."""
    events: list[Event] = []
    clock = rng.uniform(0.3, 0.7)
    for actor, act, distance in acts:
        if events and events[-1].actor != actor and rng.random() < 0.12:
            clock = events[-1].start_s + 0.6 * (events[-1].end_s - events[-1].start_s)
        end = clock + rng.uniform(1.0, 1.9)
        events.append(Event(actor, act, round(clock, 2), round(end, 2), distance=distance))
        clock = end + rng.uniform(0.15, 0.45)
    duration = min(MAX_SECONDS, max(MIN_SECONDS, clock + rng.uniform(0.2, 0.8)))
    return events, round(duration, 2)


def _sounds(rng: random.Random, duration_s: float) -> list[Event]:
    sounds = []
    for sound in rng.sample(SOUNDS, rng.choice((0, 1, 2))):
        start = round(rng.uniform(0.1, duration_s - 1.2), 2)
        sounds.append(Event(None, sound, start, round(start + rng.uniform(0.5, 1.0), 2), "audio"))
    return sounds
