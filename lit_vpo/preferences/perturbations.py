"""Perturbations of a video's order: what a rejected answer has seen (TEMPO, arXiv 2503.16929).

A perturbation acts on n units, the positions of the frame sampling plan, before anything is decoded. With divisor r the
units form contiguous groups of g = max(1, n // r), the last one shorter where g does not divide n:

- `drop` keeps max(1, n // r) random units in their order;
- `shuffle` permutes the groups, `reverse` reverses them; the order inside a group stays.

r = 16 is easy to tell from the clean video, r = 2 is hard. Some cells coincide: with g = 1 for two divisors, and for
shuffle and reverse where there are two groups.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from lit_vpo.randomness import generator

from .registry import resolve

Row: TypeAlias = dict[str, Any]
Perturbation: TypeAlias = Callable[[int, int, torch.Generator], list[int]]
"""(number of units, r, generator) -> the units in their new order, any number of them from 1 to n."""

PERTURBATIONS: dict[str, Perturbation] = {}
_MAX_DRAWS = 64  # two groups shuffle into the identity half of the time: 64 draws miss with probability 2**-64


class NoPerturbation(ValueError):
    """Nothing but the clean order can come out, as with a single unit."""


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


def difficulty(r: int) -> float:
    """Difficulty of a divisor on a log2 scale: 0 at r = 16 and above, 1 at r = 2.

    Raises:
        ValueError: If r < 2.
    """
    _check_divisor(r)
    return max(0.0, (4 - math.log2(r)) / 3)


def frame_order(kind: str, r: int, num_frames: int, seed: int, key: str) -> list[int]:
    """The sampled positions that a perturbed video shows, in order; never the clean order.

    A dropped video is a shorter one sampled at as many frames: each of its k kept units is shown num_frames / k times
    in a row, rounded down or up.

    Args:
        kind: Registered name or dotted path.
        r: Divisor, from 16 (easy) to 2 (hard).
        num_frames: Number of sampled frames; each is a unit.
        seed: With key, kind and r the address of the draw.
        key: The video's key.

    Returns:
        num_frames positions in 0..num_frames - 1.

    Raises:
        NoPerturbation: If only the clean order can come out.
        ValueError: If the kind is unknown, r < 2, or the perturbation returns other than 1 to num_frames of the units.
    """
    _check_divisor(r)
    perturbation = get_perturbation(kind)
    draws = generator(seed, "perturbation", key, kind, r)
    for _ in range(_MAX_DRAWS):
        units = perturbation(num_frames, r, draws)
        if not 1 <= len(units) <= num_frames or not set(units) <= set(range(num_frames)):
            raise ValueError(f"perturbation {kind!r} must return 1 to {num_frames} of {num_frames} units, got {units}")
        shown = [units[position * len(units) // num_frames] for position in range(num_frames)]
        if shown != list(range(num_frames)):
            return shown
    raise NoPerturbation(f"{kind} at r={r} leaves {num_frames} frame(s) in the clean order; sample more frames")


def perturbed_prompts(
    keys: Sequence[str],
    prompts: Sequence[str],
    kinds: Sequence[str],
    divisors: Sequence[int],
    num_frames: int,
    seed: int,
) -> list[Row]:
    """Overlay rows that ask one question of each clean video and of each of its perturbed forms.

    Args:
        keys: Keys of the videos.
        prompts: One is drawn for each video, the same for all of its rows.
        kinds: Perturbations by name or dotted path.
        divisors: Values of r.
        num_frames: Frames that will be sampled from each video.
        seed: Address of the draws, together with key, kind and r.

    Returns:
        For each key a clean row (`perturbation` None), then one row per kind and r with `media.frame_order`, `r` and
        `difficulty`. A perturbation that can only be the clean order, or that shows the frames of one before it (two
        groups shuffled are two groups reversed), is left out, with a warning that counts it.

    Raises:
        ValueError: If prompts, kinds or divisors are empty or repeat, a kind is unknown, or r < 2.
    """
    for name, values in (("prompts", prompts), ("kinds", kinds), ("divisors", divisors)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must hold at least one value, and none twice, got {list(values)}")
    rows: list[Row] = []
    skipped: list[str] = []
    for key in keys:
        draw = torch.randint(len(prompts), (), generator=generator(seed, "prompt", key))
        asked = {"key": key, "prompt": prompts[int(draw)]}
        rows.append({**asked, "id": f"{key}/clean", "media": {}, "perturbation": None})
        forms, reasons = _forms(key, kinds, divisors, num_frames, seed)
        rows += [{**asked, **form} for form in forms]
        skipped += reasons
    for reason_text in sorted(set(skipped)):
        warnings.warn(f"{skipped.count(reason_text)} prompts skipped: {reason_text}", stacklevel=2)
    return rows


def _forms(
    key: str, kinds: Sequence[str], divisors: Sequence[int], num_frames: int, seed: int
) -> tuple[list[Row], list[str]]:
    """The different perturbed forms of one video, and why the others are left out."""
    forms: dict[tuple[int, ...], Row] = {}
    reasons = []
    for kind, r in ((kind, r) for kind in kinds for r in divisors):
        try:
            form = _perturbed(key, kind, r, num_frames, seed)
        except NoPerturbation as reason:
            reasons.append(str(reason))
            continue
        first = forms.setdefault(tuple(form["media"]["frame_order"]), form)
        if first is not form:
            same = "{kind} at r={r}".format(**first["perturbation"])
            reasons.append(f"{kind} at r={r} shows the same frames as {same}")
    return list(forms.values()), reasons


def _perturbed(key: str, kind: str, r: int, num_frames: int, seed: int) -> Row:
    return {
        "id": f"{key}/{kind}-{r}",
        "media": {"frame_order": frame_order(kind, r, num_frames, seed, key)},
        "perturbation": {"kind": kind, "r": r},
        "r": r,
        "difficulty": difficulty(r),
    }


def _check_divisor(r: int) -> None:
    if r < 2:
        raise ValueError(f"r must be >= 2 (2 is the hardest, 16 the easiest), got {r}")
