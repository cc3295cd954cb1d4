"""Pairs in video form: one question about the clean video and about each of its perturbed forms.

Perturbations act on the sampling plan, before anything is decoded: a form is a view in the record's `media`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch

from lit_vpo.randomness import generator

from .perturbations import OTHER, Form, all_forms, check_choices

Row: TypeAlias = dict[str, Any]

FRAMES_PER_UNIT = {"frames": 1, "clips": 2}


def units_of(unit: str, num_frames: int) -> int:
    """How many units a plan of `num_frames` frames has.

    Raises:
        ValueError: If the unit is unknown, there is no frame, or a unit's frames do not divide the plan's.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be >= 1, got {num_frames}")
    if unit not in FRAMES_PER_UNIT:
        known = ", ".join(FRAMES_PER_UNIT)
        raise ValueError(f"unknown unit {unit!r} of a video; known: {known} (captions are perturbed by `pairs lists`)")
    if num_frames % FRAMES_PER_UNIT[unit]:
        raise ValueError(f"a clip is two frames: {num_frames} frames do not make whole clips; sample an even number")
    return num_frames // FRAMES_PER_UNIT[unit]


def view_of(form: Form, unit: str, num_frames: int) -> Row:
    """The fields of `media` that show a form of a video.

    A dropped video is a shorter one sampled at as many frames: each of its k kept units is shown n / k times in a row,
    rounded down or up.

    Args:
        form: Of the plan's units.
        unit: What they are.
        num_frames: Frames of the plan.

    Returns:
        `frame_order` where the video's own frames move, `splice` where another video's are seen.

    Raises:
        ValueError: As `units_of`.
    """
    num_units, size = units_of(unit, num_frames), FRAMES_PER_UNIT[unit]
    shown = [form.units[place * len(form.units) // num_units] for place in range(num_units)]
    own = [place if each == OTHER else each for place, each in enumerate(shown)]
    order = [each * size + frame for each in own for frame in range(size)]
    foreign = [place * size + frame for place, each in enumerate(shown) if each == OTHER for frame in range(size)]
    moved = {} if order == list(range(num_frames)) else {"frame_order": order}
    return moved | ({"splice": {"key": form.other, "positions": foreign}} if foreign else {})


def perturbed_prompts(
    asked: Sequence[Row],
    kinds: Sequence[str],
    divisors: Sequence[int],
    num_frames: int,
    seed: int,
    unit: str = "frames",
    frame_indices: Mapping[str, list[int]] | None = None,
) -> list[Row]:
    """Overlay rows that ask the same of each clean video and of each of its perturbed forms.

    Args:
        asked: Rows with `key`, `id` and `prompt`, such as `caption_requests` or an overlay of questions; what else they
            hold goes along, their `media` below the view.
        kinds: Perturbations by name or dotted path; none asks about the clean videos alone.
        divisors: Values of r.
        num_frames: Frames that will be sampled from each video.
        seed: Address of the draws, together with key, kind and r.
        unit: What is perturbed: `frames`, or `clips` of two frames.
        frame_indices: Frames to show of each video, in place of sampled ones.

    Returns:
        For each row a clean one (`perturbation` None), then one per kind and r with its view in `media`, `r` and
        `difficulty`. A perturbation that can only be the clean order, and one that shows the same as one before it
        (divisors that coincide; two groups shuffled are two groups reversed), is left out, with a warning that counts
        it.

    Raises:
        ValueError: If kinds or divisors repeat, or there are no divisors, a kind or the unit is unknown, r < 2, or a
            row has no video, or shows a view of it already.
    """
    keys = list(dict.fromkeys(row["key"] for row in asked))
    rows: list[Row] = []
    skipped: list[str] = []
    for row in asked:
        key, name = row["key"], row["id"]
        base = _own_media(row) | ({} if frame_indices is None else {"frame_indices": frame_indices[key]})
        rows.append({**row, "id": f"{name}/clean", "media": base, "perturbation": None})
        length = len(base.get("frame_indices", range(num_frames)))
        if not kinds:
            continue
        forms, reasons = all_forms(kinds, divisors, unit, units_of(unit, length), seed, key, keys)
        different, same = _different(forms, unit, length)
        for form, view in different:
            media = base | view
            rows.append({**row, "id": f"{name}/{form.kind}-{form.r}", "media": media, **form.fields(unit)})
        skipped += reasons + same
    warn_skipped(skipped)
    return rows


def _own_media(row: Row) -> Row:
    media: Row = row.get("media") or {}
    if ("video" in media and media["video"] is None) or media.keys() & {"frame_order", "splice"}:
        raise ValueError(f"{row['id']} has no video, or a view of it already; ask about the clean video")
    return media


def caption_requests(keys: Sequence[str], prompts: Sequence[str], seed: int) -> list[Row]:
    """What asks for a caption of each video: `key`, `id` (the same) and `prompt`, one of several drawn for each.

    Raises:
        ValueError: If prompts are empty or repeat.
    """
    check_choices(prompts=prompts)
    return [{"key": key, "id": key, "prompt": drawn_prompt(prompts, seed, key)} for key in keys]


def drawn_prompt(prompts: Sequence[str], seed: int, key: str) -> str:
    """The one of several prompts that is drawn for a video."""
    return prompts[int(torch.randint(len(prompts), (), generator=generator(seed, "prompt", key)))]


def warn_skipped(reasons: Sequence[str]) -> None:
    """Say how many prompts were skipped for each reason."""
    for reason in sorted(set(reasons)):
        warnings.warn(f"{reasons.count(reason)} prompts skipped: {reason}", stacklevel=3)


def _different(forms: Sequence[Form], unit: str, num_frames: int) -> tuple[list[tuple[Form, Row]], list[str]]:
    """Forms with their views, each view once, and why the others are left out."""
    found: dict[str, Form] = {}
    kept, reasons = [], []
    for form in forms:
        view = view_of(form, unit, num_frames)
        first = found.setdefault(repr(view), form)
        if first is form:
            kept.append((form, view))
        else:
            reasons.append(f"{form.kind} at r={form.r} shows the same frames as {first.kind} at r={first.r}")
    return kept, reasons
