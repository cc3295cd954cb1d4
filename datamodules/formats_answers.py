"""Formats of answers to learn, of tests, of predictions, and of single generations that become pairs together."""

import re
from typing import Any

from .fields import Row
from .formats import ask, files_of, no_pair, register, text_of, turns_of
from .formats_pairs import salmonn_media, video_or_frames

# file names of TEMPLE's generations: task, input, perturbation, divisor, and two options of dropping
_TEMPLE = re.compile(r"(?:caption|qa)_[a-z]+_(none|drop|shuffle|reverse)_(\d+)_(?:True|False)_(?:True|False)\.jsonl")
TEMPLE_PROMPT = "Describe the video in detail."  # the first of the six that its own conversion draws from


@register("temple_inter", lambda row: {"frame_indices", "response", "video_path"} <= row.keys())
def _temple_inter(row: Row, where: str) -> Row:
    """One generation; the file's name says of which perturbation. ``schemas.py`` joins those of a video to pairs."""
    named = _TEMPLE.search(where)
    if named is None:
        raise ValueError(
            f"{where}: the file's name must say the perturbation, as in caption_caption_drop_8_False_False.jsonl"
        )
    no_pair(row, where)
    asked = {"prompt": text_of(row, "question", where) if row.get("question") else TEMPLE_PROMPT, "history": []}
    perturbation = {"kind": named[1], "r": int(named[2])}
    media = files_of(row, where, video="video_path")
    return {**asked, "media": media, "ground_truth": text_of(row, "response", where), "perturbation": perturbation}


@register("vs2_test", lambda row: "events" in row and "conversations" in row)
def _vs2_test(row: Row, where: str) -> Row:
    record = _one_answer(row, where)
    events = row["events"]
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise ValueError(f"{where}, field 'events': must be a list of texts, got {events!r}")
    return record | {"media": salmonn_media(row, where), "events": [{"text": event} for event in events]}


@register("hound_test", lambda row: "conversations" in row and "caption" in row)
def _hound_test(row: Row, where: str) -> Row:
    meta = {"caption": row["caption"]} | ({"source_id": row["id"]} if isinstance(row.get("id"), str) else {})
    return _one_answer(row, where) | {"media": video_or_frames(row, where), "meta": meta}


@register("vs2_sft", lambda row: "conversations" in row)
def _vs2_sft(row: Row, where: str) -> list[Row]:
    turns = turns_of(row["conversations"], "conversations", where, {"gt": "assistant", "history_gpt": "assistant"})
    no_pair(row, where)
    return _every_answer(turns, salmonn_media(row, where), "conversations", where)


@register("llamafactory_sft", lambda row: "messages" in row)
def _llamafactory_sft(row: Row, where: str) -> list[Row]:
    no_pair(row, where)
    media = files_of(row, where, video="videos", audio="audios", image="images")
    return _every_answer(turns_of(row["messages"], "messages", where), media, "messages", where)


@register("results", lambda row: "model_prediction" in row or ("id" in row and bool({"pred", "pred1"} & row.keys())))
def _results(row: Row, where: str) -> Row:
    """Predictions of another program: its answers stay in ``meta.predictions``, the reference is the ground truth."""
    said = _predicted(row, where)
    named = row.get("modal_path") or files_of(row, where, video="video").get("video") or row.get("id")
    video = named[0] if isinstance(named, list) and named else named
    if not isinstance(video, str):
        raise ValueError(f"{where}, field 'id': must name the video, got {named!r}")
    asked = text_of(row, "query" if row.get("query") and not row.get("prompt") else "prompt", where)
    truth = row.get("ref") or row.get("answer")
    record: Row = {
        "prompt": asked,
        "history": [],
        "media": {"video": video},
        "meta": {"predictions": said},
    }
    return record | ({"ground_truth": truth} if truth else {})


def _predicted(row: Row, where: str) -> list[str]:
    said: Any = row.get("model_prediction", row.get("pred"))
    if isinstance(said, dict):
        if said.get("status") != "success":
            raise ValueError(
                f"{where}, field 'model_prediction': status is {said.get('status')!r}, so nothing was said"
            )
        said = said.get("message")
    texts = [*(said if isinstance(said, list) else [said]), *(row[name] for name in ("pred1", "pred2") if name in row)]
    texts = [text for text in texts if text is not None]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}, field 'pred': must be text or a list of texts, got {said!r}")
    return texts


def _one_answer(row: Row, where: str) -> Row:
    no_pair(row, where)
    turns = turns_of(row["conversations"], "conversations", where)
    records = _every_answer(turns, {}, "conversations", where)
    return records[-1]


def _every_answer(turns: list[dict[str, str]], media: Row, field: str, where: str) -> list[Row]:
    """One record for each of the assistant's turns: all are learnt, each after the turns before it."""
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError(f"{where}, field '{field}': the last turn must be the assistant's (the answer to learn)")
    answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    return [
        {
            **ask(turns[:number], where, field),
            "media": dict(media),
            "ground_truth": turns[number]["content"],
            "mode": "sft",
        }
        for number in answers
    ]
