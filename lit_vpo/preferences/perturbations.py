"""Perturbations of a video: what a rejected answer has seen (TEMPO, arXiv 2503.16929, and its released generator).

A perturbation acts on n units: positions of the frame sampling plan (`frames`), clips of two of them (`clips`), or the
captions of a video's clips in a list of text (`captions`). With divisor r and g = max(1, n // r):

- `drop` keeps g random units in their order;
- `shuffle` permutes contiguous groups of g units (the last one shorter where g does not divide n), `reverse` reverses
  the groups; the order inside a group stays;
- `freeze` plays a window of g units; the units before it show its first one, those after it its last one (ours);
- `splice` keeps a window of g units in place; everywhere else another video is seen (ours).

r = 16 is easy to tell from the clean video, r = 2 is hard. Some cells coincide: divisors with one g, and shuffle with
reverse where there are two groups.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import torch

from lit_vpo.randomness import generator

from .registry import resolve

Row: TypeAlias = dict[str, Any]
Perturbation: TypeAlias = Callable[[int, int, torch.Generator], list[int]]
"""(number of units, r, generator) -> the units shown, 1 to n of them; `OTHER` where another video's is seen."""

OTHER = -1
"""Stands for another video's unit, the one at the place where it is shown."""

PERTURBATIONS: dict[str, Perturbation] = {}
_BY_SIZE = ("drop", "shuffle", "reverse", "freeze", "splice")  # where r acts through max(1, n // r) alone
_MAX_DRAWS = 64  # two groups shuffle into the identity half of the time: 64 draws miss with probability 2**-64


class NoPerturbation(ValueError):
    """Nothing but the clean order can come out, as with a single unit."""


class Form(NamedTuple):
    """What a perturbation makes of one video.

    Attributes:
        kind: The perturbation.
        r: Its divisor.
        units: Those shown, in their order; `OTHER` where the other video's are seen.
        other: Key of that video; None where there is none.
    """

    kind: str
    r: int
    units: list[int]
    other: str | None

    def fields(self, unit: str) -> Row:
        """Fields of a record that was asked about it: `perturbation`, `r` and `difficulty`."""
        made = {"kind": self.kind, "r": self.r, "unit": unit, "units": self.units}
        other = {} if self.other is None else {"other": self.other}
        return {"perturbation": made | other, "r": self.r, "difficulty": difficulty(self.r)}


def register(name: str) -> Callable[[Perturbation], Perturbation]:
    """Decorator: adds a perturbation under a short name.

    Raises:
        ValueError: If the name is taken.
    """

    def add(perturbation: Perturbation) -> Perturbation:
        if name in PERTURBATIONS:
            raise ValueError(f"perturbation {name!r} exists already; choose another name")
        PERTURBATIONS[name] = perturbation
        return perturbation

    return add


def get_perturbation(kind: str) -> Perturbation:
    """A registered perturbation, or one of the user's own by dotted path (`my_package.my_module.function`).

    Raises:
        ValueError: If there is none of that name.
    """
    return resolve("perturbation", kind, PERTURBATIONS)


def groups_of(num_units: int, r: int) -> list[list[int]]:
    """Contiguous groups of max(1, num_units // r) units; the remainder is a shorter last group."""
    size = max(1, num_units // r)
    return [list(range(start, min(start + size, num_units))) for start in range(0, num_units, size)]


@register("drop")
def drop(num_units: int, r: int, draws: torch.Generator) -> list[int]:
    """Keeps max(1, num_units // r) random units, in their order."""
    kept = torch.randperm(num_units, generator=draws)[: max(1, num_units // r)]
    return sorted(kept.tolist())


@register("shuffle")
def shuffle(num_units: int, r: int, draws: torch.Generator) -> list[int]:
    """Permutes the groups at random."""
    groups = groups_of(num_units, r)
    order = torch.randperm(len(groups), generator=draws).tolist()
    return [unit for group in order for unit in groups[group]]


@register("reverse")
def reverse(num_units: int, r: int, draws: torch.Generator) -> list[int]:
    """Shows the last group first; each group still runs forward."""
    return [unit for group in reversed(groups_of(num_units, r)) for unit in group]


@register("freeze")
def freeze(num_units: int, r: int, draws: torch.Generator) -> list[int]:
    """Plays a drawn window of max(1, num_units // r) units; before it stands its first, after it its last one."""
    window = _window(num_units, r, draws)
    return [min(max(unit, window[0]), window[-1]) for unit in range(num_units)]


@register("splice")
def splice(num_units: int, r: int, draws: torch.Generator) -> list[int]:
    """Keeps a drawn window of max(1, num_units // r) units in place; all the others are another video's."""
    window = _window(num_units, r, draws)
    return [unit if unit in window else OTHER for unit in range(num_units)]


def _window(num_units: int, r: int, draws: torch.Generator) -> range:
    size = max(1, num_units // r)
    start = int(torch.randint(num_units - size + 1, (), generator=draws))
    return range(start, start + size)


def difficulty(r: int) -> float:
    """Difficulty of a divisor on a log2 scale: 0 at r = 16 and above, 1 at r = 2.

    Raises:
        ValueError: If r < 2.
    """
    _check_divisor(r)
    return max(0.0, (4 - math.log2(r)) / 3)


def perturbed(kind: str, r: int, num_units: int, seed: int, key: str, others: Sequence[str] = ()) -> Form:
    """A video's perturbed form; never the clean one.

    Args:
        kind: Registered name or dotted path.
        r: Divisor, from 16 (easy) to 2 (hard).
        num_units: Number of units.
        seed: With key, kind and r the address of the draw.
        key: The video's key.
        others: Keys, each once, of the videos that may be seen in its place; its own is passed over. The one that is
            drawn depends on all of them and on their order: with other videos asked about, another one is spliced in.

    Raises:
        NoPerturbation: If only the clean order can come out, or no other video is there where one is needed.
        ValueError: If the kind is unknown, r < 2, or the perturbation returns other than 1 to num_units of the units.
    """
    _check_divisor(r)
    perturbation = get_perturbation(kind)
    draws = generator(seed, "perturbation", key, kind, r)
    for _ in range(_MAX_DRAWS):
        units = perturbation(num_units, r, draws)
        if not 1 <= len(units) <= num_units or not set(units) <= {OTHER, *range(num_units)}:
            raise ValueError(f"perturbation {kind!r} must return 1 to {num_units} of {num_units} units, got {units}")
        if units != list(range(num_units)):
            return Form(kind, r, units, _drawn(others, key, kind, draws) if OTHER in units else None)
    raise NoPerturbation(f"{kind} at r={r} leaves {num_units} unit(s) in the clean order; sample more frames")


def all_forms(
    kinds: Sequence[str],
    divisors: Sequence[int],
    unit: str,
    num_units: int,
    seed: int,
    key: str,
    others: Sequence[str] = (),
) -> tuple[list[Form], list[str]]:
    """A video's forms by each kind at each divisor, one of those divisors that are the same on so few units.

    Args:
        kinds: Perturbations by name or dotted path.
        divisors: Values of r; of several that coincide the first one stands.
        unit: What the units are, for the reasons.
        num_units: As in `perturbed`, like what follows.
        seed: See there.
        key: See there.
        others: See there.

    Returns:
        The forms, and the reasons why others are left out.

    Raises:
        ValueError: If kinds or divisors are empty or repeat, or as `perturbed`.
    """
    check_choices(kinds=kinds, divisors=divisors)
    forms: list[Form] = []
    reasons: list[str] = []
    firsts: dict[tuple[str, int], int] = {}
    for kind, r in product(kinds, divisors):
        _check_divisor(r)
        first = firsts.setdefault((kind, max(1, num_units // r)), r) if kind in _BY_SIZE else r
        if first != r:
            reasons.append(f"{kind} at r={r} is {kind} at r={first} on {num_units} {unit}")
            continue
        try:
            forms.append(perturbed(kind, r, num_units, seed, key, others))
        except NoPerturbation as reason:
            reasons.append(str(reason))
    return forms, reasons


def check_choices(**choices: Sequence[object]) -> None:
    """Refuse choices that are empty or repeat.

    Raises:
        ValueError: They do; the message names them.
    """
    for name, values in choices.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must hold at least one value, and none twice, got {list(values)}")


def _drawn(others: Sequence[str], key: str, kind: str, draws: torch.Generator) -> str:
    if all(other == key for other in others):
        raise NoPerturbation(f"{kind} needs another video, and there is none")
    while (other := others[int(torch.randint(len(others), (), generator=draws))]) == key:
        pass
    return other


def _check_divisor(r: int) -> None:
    if r < 2:
        raise ValueError(f"r must be >= 2 (2 is the hardest, 16 the easiest), got {r}")
