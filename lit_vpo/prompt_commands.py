"""The commands under `pairs` that write prompts: in video form at once, in released form in two steps."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from lit_vpo.atomic import write_lines
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.mix import Mix
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.generations import read_generations
from lit_vpo.preferences.clip_prompts import clip_prompts, frame_indices_of
from lit_vpo.preferences.instructions import DEFAULT_PROMPTS
from lit_vpo.preferences.list_prompts import list_prompts
from lit_vpo.preferences.video_prompts import caption_requests, perturbed_prompts

Row: TypeAlias = dict[str, Any]

_KINDS = ("drop", "shuffle", "reverse")


def write_prompts(
    shards: str,
    out: str,
    kinds: Sequence[str],
    divisors: Sequence[int],
    num_frames: int,
    prompts: Sequence[str],
    seed: int,
    unit: str = "frames",
    selection: str | None = None,
    questions: str | None = None,
    clean_only: bool = False,
) -> None:
    """Writes the overlay that asks for a caption of each clean video and of each perturbed one, or other questions.

    Args:
        shards: Folder with a manifest.
        out: The overlay.
        kinds: Perturbations; empty means drop, shuffle and reverse.
        divisors: Values of r; empty means 4.
        num_frames: Frames that will be sampled; perturbations act on them before decoding.
        prompts: One is drawn per video; empty means a few caption instructions.
        seed: Address of the draws.
        unit: What is perturbed: `frames`, or `clips` of two frames.
        selection: Overlay of selected videos, whose clips' frames are shown in place of sampled ones; None asks about
            all videos.
        questions: Overlay whose rows are asked, instead of captions.
        clean_only: Leave the perturbed videos out.

    Raises:
        ValueError: If a kind or the unit is unknown, a divisor is below 2, prompts are given beside questions or
            perturbations beside clean_only, a question has no id or stands twice, a selected video stands twice, or as
            `clip_prompts`.
    """
    if questions is not None and prompts:
        raise ValueError("--questions brings its own prompts; leave out --prompt")
    if clean_only and (kinds or divisors):
        raise ValueError("--clean-only perturbs nothing; leave out --kind and --r")
    manifest = Manifest.load(shards)
    keys, frames = [sample.key for sample in manifest.samples], None
    if selection is not None:
        selected = _selected(selection, manifest)
        frames = {row["key"]: [frame for clip in frame_indices_of(row) for frame in clip] for row in selected}
        keys = list(frames)
    if questions is None:
        asked = caption_requests(keys, prompts or DEFAULT_PROMPTS, seed)
    else:
        asked = _questions(questions, keys, manifest)
    perturbed = ((), ()) if clean_only else (kinds or _KINDS, divisors or (4,))
    rows = perturbed_prompts(asked, *perturbed, num_frames, seed, unit, frames)
    Overlay(tuple(rows)).save(out)
    Console().print(f"{len(rows)} prompts for {len({row['key'] for row in asked})} videos: {out}")


def _selected(selection: str, manifest: Manifest) -> list[Row]:
    """The rows of selected videos that are there, one of each."""
    rows = Overlay.load(selection).known_rows(manifest)
    twice = sorted(key for key, count in Counter(row["key"] for row in rows).items() if count > 1)
    if twice:
        raise ValueError(f"{selection} names videos twice: {', '.join(twice[:5])}; keep one row of each")
    return rows


def _questions(overlay: str, keys: Sequence[str], manifest: Manifest) -> list[Row]:
    """The questions about selected videos; what would only fail once they are answered is refused."""
    rows = Mix.load(overlay).overlay.known_rows(manifest)
    if unnamed := [row for row in rows if not (row.get("id") and row.get("prompt"))]:
        raise ValueError(f"{len(unnamed)} questions have no id or no prompt, the first about {unnamed[0]['key']}")
    twice = [where for where, count in Counter((row["key"], row["prompt"]) for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} questions stand twice, the first about {twice[0][0]}; keep one row of each")
    selected = set(keys)
    asked = [row for row in rows if row["key"] in selected]
    if len(asked) < len(rows):
        Console().print(f"{len(rows) - len(asked)} questions left out: their videos are not selected")
    return asked


def write_clip_prompts(selection: str, shards: str, out: str) -> None:
    """Writes the overlay that asks for a caption of each clip of selected videos.

    Args:
        selection: Overlay of selected videos.
        shards: Folder with a manifest.
        out: The overlay.

    Raises:
        ValueError: If a video is not there or stands twice, or as `lit_vpo.preferences.clip_prompts.clip_prompts`.
    """
    selected = _selected(selection, Manifest.load(shards))
    rows = clip_prompts(selected)
    Overlay(tuple(rows)).save(out)
    Console().print(f"{len(rows)} clips of {len(selected)} videos: {out}")


def write_list_prompts(
    generations: str, out: str, kinds: Sequence[str], divisors: Sequence[int], prompts: Sequence[str], seed: int
) -> None:
    """Writes the overlay that asks for each video's caption from lists of its clips' captions, and prints what is lost.

    Args:
        generations: JSONL that `predict` wrote for `pairs clips`.
        out: The overlay; videos without all captions go to `<out stem>.dropped.jsonl` with their reasons.
        kinds: Perturbations; empty means drop, shuffle and reverse.
        divisors: Values of r; empty means 16, 8, 4 and 2.
        prompts: Of the pairs to come, one is drawn per video; empty means a few caption instructions.
        seed: Address of the draws.

    Raises:
        ValueError: If no video is left, or as `lit_vpo.generations.read_generations` and
            `lit_vpo.preferences.list_prompts.list_prompts`.
    """
    answers = list(read_generations(generations).values())
    asked = prompts or DEFAULT_PROMPTS
    rows, dropped, skipped = list_prompts(answers, kinds or _KINDS, divisors or (16, 8, 4, 2), seed, asked)
    reasons = Counter(row["reason"] for row in dropped)
    if not rows:
        raise ValueError(f"{generations} has no video with all its clips' captions: {dict(reasons)}")
    Overlay(tuple(rows)).save(out)
    write_lines(Path(out).with_name(Path(out).stem + ".dropped.jsonl"), map(json.dumps, dropped))
    console = Console(soft_wrap=True)
    for reason, count in sorted(reasons.items()):
        console.print(f"{count} videos dropped: {reason}")
    for reason, count in sorted(Counter(skipped).items()):
        console.print(f"{count} lists skipped: {reason}")
    console.print(f"{len(rows)} lists of {sum(row['perturbation'] is None for row in rows)} videos: {out}")
