"""Pairs in released form, first half: captions of the clips of selected videos (TEMPO's generator, arXiv 2503.16929).

The policy describes a video clip by clip, each clip after the first in its difference from the one before; what it
says is cleaned here. `list_prompts` makes the answers' prompts of it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

from .instructions import FIRST_CLIP_PROMPT, NEXT_CLIP_PROMPT

Row: TypeAlias = dict[str, Any]

_MARK = r"\*\*|[\"'\u2018\u2019\u201c\u201d]|\s"  # bold print, straight and curly quotes
_LEAD = re.compile(rf"^(?:{_MARK}|(?:Detailed )?Caption:)+", re.IGNORECASE)
_TAIL = re.compile(rf"(?:{_MARK})+$")
_NAMES = {"video clip 2": "this video clip", "video clip 1": "the previous clip"}


def frame_indices_of(selection: Row) -> list[list[int]]:
    """The frames of a selected video's clips, two of each.

    Raises:
        ValueError: If the row has none.
    """
    found = (selection.get("meta") or {}).get("selection")
    clips = found.get("frame_indices") if isinstance(found, dict) else None
    if not isinstance(clips, list) or not clips or not all(isinstance(clip, list) and len(clip) == 2 for clip in clips):
        name = selection.get("id") or selection["key"]
        raise ValueError(f"{name} has no meta.selection.frame_indices of two frames for each clip; select videos first")
    return clips


def clip_prompts(selections: Sequence[Row], first: str = FIRST_CLIP_PROMPT, later: str = NEXT_CLIP_PROMPT) -> list[Row]:
    """One prompt for each clip of selected videos.

    A record has one video, so a later clip is shown as four frames in one: those of the clip before, then its own.

    Args:
        selections: Overlay rows with `key`, `id` and `meta.selection.frame_indices`.
        first: Asked about the first clip.
        later: Asked about each later one.

    Returns:
        Overlay rows with `media.frame_indices` and `meta.clip`: {video (the selection's id), number, total}.

    Raises:
        ValueError: As `frame_indices_of`.
    """
    rows = []
    for selection in selections:
        clips, name = frame_indices_of(selection), selection.get("id") or selection["key"]
        for number, clip in enumerate(clips):
            shown = clip if number == 0 else clips[number - 1] + clip
            rows.append(
                {
                    "key": selection["key"],
                    "id": f"{name}/clip-{number}",
                    "prompt": later if number else first,
                    "media": {"frame_indices": shown},
                    "meta": {"clip": {"video": name, "number": number, "total": len(clips)}},
                }
            )
    return rows


def cleaned(response: str) -> str:
    """A clip's caption out of an answer: its last line, without title, bold print and quotes; clips named by place."""
    lines = response.strip().splitlines() or [""]
    text = _TAIL.sub("", _LEAD.sub("", lines[-1]))
    for name, place in _NAMES.items():
        text = text.replace(name, place).replace(name.capitalize(), place.capitalize())
    return text


def caption_lists(generations: Sequence[Row]) -> tuple[dict[str, list[Row]], list[Row]]:
    """The clips of each video in their order, and the videos whose captions are not all there.

    Args:
        generations: Rows of `predict` for `clip_prompts`.

    Returns:
        By the selection's id, rows with the cleaned caption as `response`; and {key, id, reason} of each video left
        out, the reason `missing_caption`, `unfinished_caption` or `not_available_caption` ("N/A", or no text).

    Raises:
        ValueError: If a row answers no clip prompt, or a clip has two captions.
    """
    videos: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in generations:
        clip = (row.get("meta") or {}).get("clip")
        if clip is None:
            raise ValueError(f"{row['id']} is no caption of a clip: give what predict wrote for `pairs clips`")
        if clip["number"] in videos[clip["video"]]:
            raise ValueError(f"clip {clip['number']} of {clip['video']} has two captions; generate one per prompt")
        videos[clip["video"]][clip["number"]] = row | {"response": cleaned(row["response"])}
    lists, dropped = {}, []
    for name, clips in videos.items():
        rows = [row for _, row in sorted(clips.items())]
        reason = _flaw(rows)
        if reason is None:
            lists[name] = rows
        else:
            dropped.append({"key": rows[0]["key"], "id": name, "reason": reason})
    return lists, dropped


def _flaw(rows: Sequence[Row]) -> str | None:
    if len(rows) < rows[0]["meta"]["clip"]["total"]:
        return "missing_caption"
    if not all(row["finished"] for row in rows):
        return "unfinished_caption"
    return "not_available_caption" if any(row["response"] in ("", "N/A") for row in rows) else None
