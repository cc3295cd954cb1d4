"""Pairs in released form, second half: the whole video's caption, written from the list of its clips' captions.

Answers to the clean list are chosen, those to a perturbed one rejected (TEMPO's generator, arXiv 2503.16929): 13 lists
of a video where no two divisors coincide. A dropped list really is shorter.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from .clip_prompts import caption_lists
from .instructions import DEFAULT_PROMPTS, LIST_PROMPT
from .perturbations import OTHER, Form, all_forms
from .video_prompts import drawn_prompt

Row: TypeAlias = dict[str, Any]


def list_prompts(
    generations: Sequence[Row],
    kinds: Sequence[str],
    divisors: Sequence[int],
    seed: int,
    asked: Sequence[str] = DEFAULT_PROMPTS,
    prompt: str = LIST_PROMPT,
) -> tuple[list[Row], list[Row], list[str]]:
    """Prompts of text alone: the clean list of each video's captions, and each of its perturbed forms.

    Shuffle and reverse of two groups are one list and stay two prompts, as in the released generator: their answers are
    drawn apart.

    Args:
        generations: Rows of `predict` for `clip_prompts`.
        kinds: Perturbations by name or dotted path; the units are captions.
        divisors: Values of r.
        seed: With the video's key, kind and r the address of a draw.
        asked: Questions about the video that the answers will stand for in training; one is drawn per video.
        prompt: Asks for the caption; `{captions}` stands for the list.

    Returns:
        Overlay rows with `media.video` null and the question in `meta.asked`; videos left out, as `caption_lists`
        says; and for each form left out its reason.

    Raises:
        ValueError: If the prompt has no `{captions}`, kinds or divisors are empty or repeat, a kind is unknown, r < 2,
            or as `caption_lists`.
    """
    if "{captions}" not in prompt:
        raise ValueError(f"the prompt must say where the list stands, by {{captions}}; got {prompt!r}")
    lists, dropped = caption_lists(generations)
    by_key = {clips[0]["key"]: [clip["response"] for clip in clips] for clips in lists.values()}
    rows: list[Row] = []
    skipped: list[str] = []
    for name, clips in lists.items():
        key, captions = clips[0]["key"], [clip["response"] for clip in clips]
        question = {"asked": drawn_prompt(asked, seed, key), "captions_by": clips[0].get("model")}
        common = {"key": key, "media": {"video": None}, "meta": question}
        rows.append(common | {"id": f"{name}/clean", "prompt": _listed(captions, prompt), "perturbation": None})
        forms, reasons = all_forms(kinds, divisors, "captions", len(captions), seed, key, list(by_key))
        skipped += reasons
        for form in forms:
            shown = _shown(form, captions, by_key)
            if shown == captions:  # clips that look alike may be told in the same words
                skipped.append(f"{form.kind} at r={form.r} moves equal captions alone")
                continue
            own = {"id": f"{name}/{form.kind}-{form.r}", "prompt": _listed(shown, prompt), **form.fields("captions")}
            rows.append(common | own)
    return rows, dropped, skipped


def _shown(form: Form, captions: Sequence[str], by_key: dict[str, list[str]]) -> list[str]:
    """A form's captions; of another video with more or fewer of them, those as far into it."""
    theirs = by_key[form.other] if form.other is not None else []
    return [
        theirs[place * len(theirs) // len(captions)] if unit == OTHER else captions[unit]
        for place, unit in enumerate(form.units)
    ]


def _listed(captions: Sequence[str], prompt: str) -> str:
    lines = [f"- Caption {number}: {caption}" for number, caption in enumerate(captions, start=1)]
    return prompt.replace("{captions}", "\n".join(lines))
