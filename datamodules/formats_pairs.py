"""Formats of preference pairs; what each field means is `methods.md`'s table: read from the authors' own code."""

from typing import Any

from .fields import Row
from .formats import ask, files_of, pair_fields, register, said_by, text_of, turns_of

_SALMONN = {"chosen": "chosen", "reject": "rejected", "reject_gpt": "rejected", "gt": "gt", "history_gpt": "assistant"}


_TALKS = ("messages", "conversations")
_REJECTED = ("rejected", "rejected_response", "rejected_messages", "rejected_conversations")


def _speakers(row: Row) -> set[str]:
    turns = row.get("conversations")
    return {said_by(turn) for turn in turns} if isinstance(turns, list) else set()


@register("lit_vpo", lambda row: "prompt" in row and "media" in row)
def _own(row: Row, where: str) -> Row:
    return dict(row)


def _is_swift(row: Row) -> bool:
    return bool(set(_TALKS) & row.keys() and set(_REJECTED) & row.keys()) and "chosen" not in row


@register("swift_dpo", _is_swift)
def _swift_dpo(row: Row, where: str) -> Row:
    """TEMPLE and ms-swift: the last answer is chosen; what is rejected is a text, or the conversation once more."""
    field, (other, *more) = _talk(row, where), [name for name in pair_fields(row) if name in _REJECTED]
    if unread := [*more, *(name for name in pair_fields(row) if name not in _REJECTED)]:
        raise ValueError(f"{where}, field '{unread[0]}': cannot be read beside '{other}'; keep one of the two")
    turns, chosen = _answered(row[field], field, where)
    if isinstance(row[other], list):
        others, rejected = _answered(row[other], other, where)
        _same(turns, others, other, where)
    else:
        rejected = text_of(row, other, where)
    return _pair(ask(turns, where, field), chosen, rejected, _swift_media(row, where))


@register("vs2_dpo", lambda row: "reject_gpt" in _speakers(row))
def _vs2_dpo(row: Row, where: str) -> Row:
    """video-SALMONN 2: ``gpt`` is chosen, ``gt`` the ground truth; sound is a file of its own."""
    question, answers = _salmonn(row, where)
    truth = {"ground_truth": answers["gt"]} if "gt" in answers else {}
    media = files_of(row, where, video="video", audio="audio") | _window(row, where)
    if row.get("ce_only"):
        return {**question, "media": media, "ground_truth": _named(answers, "gt", "gt", where), "mode": "sft"}
    return _pair(question, _named(answers, "assistant", "gpt", where), answers["rejected"], media) | truth


@register("vs2p_dpo", lambda row: bool({"chosen", "reject"} & _speakers(row)))
def _vs2p_dpo(row: Row, where: str) -> Row:
    """video-SALMONN 2+: here ``gpt`` is the ground truth; sound comes from the video's own file."""
    question, answers = _salmonn(row, where)
    truth = {"ground_truth": answers["assistant"]} if "assistant" in answers else {}
    chosen, rejected = _named(answers, "chosen", "chosen", where), _named(answers, "rejected", "reject", where)
    return _pair(question, chosen, rejected, salmonn_media(row, where)) | truth


@register("llamafactory_dpo", lambda row: bool(set(_TALKS) & row.keys()) and "chosen" in row and "rejected" in row)
def _llamafactory_dpo(row: Row, where: str) -> Row:
    field = _talk(row, where)
    chosen, rejected = text_of(row, "chosen", where), text_of(row, "rejected", where)
    return _pair(ask(turns_of(row[field], field, where), where, field), chosen, rejected, _swift_media(row, where))


def _is_hound(row: Row) -> bool:
    return {"prompt", "chosen", "rejected"} <= row.keys() and bool({"video", "frame"} & row.keys())


@register("vista_dpo", lambda row: _is_hound(row) and bool({"rejected_2", "clip_w", "clip_l"} & row.keys()))
def _vista_dpo(row: Row, where: str) -> Row:
    """A second rejected answer becomes a negative; the clips of the two answers and the box stay in ``meta``."""
    record = _hound(row, where)
    kept = {name: row[name] for name in ("clip_w", "clip_l", "bbox", "box") if row.get(name) is not None}
    record["meta"] = {**record["meta"], **kept}
    if row.get("rejected_2"):
        record["negatives"] = [{"text": text_of(row, "rejected_2", where)}]
    return record


@register("hound_dpo", _is_hound)
def _hound_dpo(row: Row, where: str) -> Row:
    return _hound(row, where)


def _hound(row: Row, where: str) -> Row:
    """LLaVA-Hound: ``video`` is a file or a folder of its frames, ``frame`` an image."""
    question = {"prompt": text_of(row, "prompt", where), "history": []}
    media = video_or_frames(row, where) or files_of(row, where, image="frame")
    meta = {"source_id": row["id"]} if isinstance(row.get("id"), str) else {}
    return _pair(question, text_of(row, "chosen", where), text_of(row, "rejected", where), media) | {"meta": meta}


@register("rrpo", lambda row: {"question", "answer", "pred", "answer_masked", "pred_masked"} <= row.keys())
def _rrpo(row: Row, where: str) -> Row:
    """The answer is both chosen and ground truth; the masked texts name the words that differ."""
    question = {"prompt": text_of(row, "question", where), "history": []}
    chosen, rejected = text_of(row, "answer", where), text_of(row, "pred", where)
    masked = {name: row[name] for name in ("answer_masked", "pred_masked")}
    record = _pair(question, chosen, rejected, files_of(row, where, video="video"))
    return record | {"ground_truth": chosen, "meta": masked}


@register("vlmrlaif", lambda row: {"output_1", "output_2", "preference"} <= row.keys())
def _vlmrlaif(row: Row, where: str) -> Row:
    if row["preference"] not in (1, 2):
        raise ValueError(f"{where}, field 'preference': must be 1 or 2, got {row['preference']!r}")
    answers = [text_of(row, name, where) for name in ("output_1", "output_2")]
    chosen, rejected = answers if row["preference"] == 1 else answers[::-1]
    turns = turns_of(row.get("conversations"), "conversations", where)
    turns = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
    media = files_of(row, where, image="image", video="video")
    return _pair(ask(turns, where, "conversations"), chosen, rejected, media)


@register("trl_dpo", lambda row: "chosen" in row and "rejected" in row)
def _trl_dpo(row: Row, where: str) -> Row:
    """TRL's columns: texts or turns, with a ``prompt`` or with the prompt repeated in front of both answers."""
    if isinstance(row["chosen"], str):
        question = {"prompt": text_of(row, "prompt", where), "history": []}
        return _pair(question, text_of(row, "chosen", where), text_of(row, "rejected", where), _swift_media(row, where))
    turns, chosen = _answered(row["chosen"], "chosen", where)
    others, rejected = _answered(row["rejected"], "rejected", where)
    _same(turns, others, "rejected", where)
    asked = turns_of(row["prompt"], "prompt", where) if "prompt" in row else []
    question = ask(asked + turns, where, "prompt" if asked else "chosen")
    return _pair(question, chosen, rejected, _swift_media(row, where))


def video_or_frames(row: Row, where: str) -> Row:
    """Media of a ``video`` that names a file, or without an extension a folder of frames."""
    media = files_of(row, where, video="video")
    name = media.get("video", "").rstrip("/")
    folder = bool(name) and "." not in name.rpartition("/")[2]
    return {"frames_dir": name} if folder else media


def salmonn_media(row: Row, where: str) -> Row:
    """Media of video-SALMONN 2+: a video with its own sound or without, or sound or an image alone."""
    media = files_of(row, where, video="video", audio="audio", image="image")
    if not isinstance(row.get("use_audio"), bool | None):
        raise ValueError(f"{where}, field 'use_audio': must be true or false, got {row['use_audio']!r}")
    heard = {"use_audio": row["use_audio"]} if row.get("use_audio") is not None else {}
    return media | heard | _window(row, where)


def _pair(question: Row, chosen: str, rejected: str, media: Row) -> Row:
    return {**question, "media": media, "chosen": chosen, "rejected": rejected, "mode": "dpo"}


def _swift_media(row: Row, where: str) -> Row:
    return files_of(row, where, video="videos", audio="audios", image="images")


def _talk(row: Row, where: str) -> str:
    """The field of the conversation."""
    named = [field for field in _TALKS if field in row]
    if len(named) > 1:
        raise ValueError(f"{where}, field 'conversations': 'messages' is there too; keep one of the two")
    return named[0]


def _answered(value: Any, field: str, where: str) -> tuple[list[dict[str, str]], str]:
    *turns, answer = turns_of(value, field, where) or [{"role": "", "content": ""}]
    if answer["role"] != "assistant":
        raise ValueError(f"{where}, field '{field}': the last turn must be the assistant's (the answer)")
    return turns, answer["content"]


def _same(turns: list[dict[str, str]], others: list[dict[str, str]], field: str, where: str) -> None:
    if turns != others:
        raise ValueError(f"{where}, field '{field}': the turns before the two answers must be the same")


def _salmonn(row: Row, where: str) -> tuple[Row, dict[str, str]]:
    """Question, and what each speaker answers to it."""
    turns = turns_of(row["conversations"], "conversations", where, _SALMONN)
    last = max((number for number, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    answers = {turn["role"]: turn["content"] for turn in turns[last + 1 :]}
    if len(answers) < len(turns) - last - 1:
        raise ValueError(f"{where}, field 'conversations': a speaker answers the last question twice")
    if any(turn["role"] not in ("user", "assistant", "system") for turn in turns[: last + 1]):
        raise ValueError(f"{where}, field 'conversations': only the last question can have a pair of answers")
    return ask(turns[: last + 1], where, "conversations"), answers


def _named(answers: dict[str, str], role: str, word: str, where: str) -> str:
    if role not in answers:
        raise ValueError(f"{where}, field 'conversations': no turn from {word!r} answers the last question")
    return answers[role]


def _window(row: Row, where: str) -> Row:
    times = row.get("timestamps")
    if times is None:
        return {}
    numbers = isinstance(times, list) and [
        isinstance(time, int | float) and not isinstance(time, bool) for time in times
    ]
    if numbers != [True, True]:
        raise ValueError(f"{where}, field 'timestamps': must be [start, end] in seconds, got {times!r}")
    return {"start_s": times[0], "end_s": times[1]}
