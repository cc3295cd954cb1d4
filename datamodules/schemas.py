"""Public annotation formats, turned into records: each is one small function on a registry, found by its fields.

Read unchanged, as JSON arrays or JSONL: our own record, LLaMA-Factory and ms-swift SFT (``messages`` + ``videos``),
their DPO (``rejected_response``, or ``conversations`` with ``chosen`` and ``rejected`` objects), LLaVA-Hound DPO.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "media": (dict,),
    "prompt": (str,),
    "history": (list,),
    "chosen": (str,),
    "rejected": (str,),
    "ground_truth": (str,),
    "mode": (str,),
    "weight": (int, float),
    "events": (list,),
    "r": (int,),
    "difficulty": (int, float),
    "scores": (dict,),
    "meta": (dict,),
}
_MEDIA_TYPES: dict[str, tuple[type, ...]] = {
    "video": (str,),
    "start_s": (int, float),
    "end_s": (int, float),
    "frame_order": (list,),
}
_TAGS = re.compile(r"<(?:video|audio|image)>\s*")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Schema:
    """One public format.

    Attributes:
        name: Goes into ``meta.schema`` of its records.
        detect: Whether a row is of this format, from its fields alone.
        convert: Row and where it stands -> record without key (``media.video`` as the file names it).

    """

    name: str
    detect: Callable[[Row], bool]
    convert: Callable[[Row, str], Row]


@dataclass(frozen=True)
class Annotations:
    """Records of a file and what was left aside.

    Attributes:
        records: One for each row, in order.
        num_ignored_audios: Audio files named beside the videos; this loader reads none.

    """

    records: list[Row]
    num_ignored_audios: int = 0


SCHEMAS: list[Schema] = []


def register(
    name: str, detect: Callable[[Row], bool]
) -> Callable[[Callable[[Row, str], Row]], Callable[[Row, str], Row]]:
    """Decorator: add a format. The first registered one that detects a row converts it."""

    def add(convert: Callable[[Row, str], Row]) -> Callable[[Row, str], Row]:
        SCHEMAS.append(Schema(name, detect, convert))
        return convert

    return add


def read_annotations(path: str | Path) -> Annotations:
    """Read a JSON array or JSONL file of any registered format, row by row.

    Raises:
        ValueError: A missing file, a format without a name, or a bad row; the message names file, row and field.

    """
    path = Path(path)
    rows = _read_rows(path)
    records = [to_record(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    return Annotations(records, sum(len(row.get("audios", ())) for row in rows))


def to_record(row: Any, where: str) -> Row:
    """Convert one row by its detected format and check the fields of the result."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row must be an object, got {type(row).__name__}")
    for schema in SCHEMAS:
        if schema.detect(row):
            record = schema.convert(row, where)
            record["meta"] = {**record.get("meta", {}), "schema": schema.name}
            check_fields(record, where)
            return record
    known = ", ".join(schema.name for schema in SCHEMAS)
    raise ValueError(f"{where}: fields {sorted(row)} are of no known format ({known})")


def check_fields(record: Row, where: str) -> None:
    """Check the types of a record's known fields (any may be absent).

    Raises:
        ValueError: Names ``where`` and the field.

    """
    for fields, types, prefix in ((record, _FIELD_TYPES, ""), (record.get("media", {}), _MEDIA_TYPES, "media.")):
        if not isinstance(fields, dict):
            raise ValueError(f"{where}, field 'media': must be an object, got {fields!r}")
        for name, kinds in types.items():
            value = fields.get(name)
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"{where}, field '{prefix}{name}': must be {wanted}, got {value!r}")
    if record.get("mode", "sft") not in ("sft", "dpo"):
        raise ValueError(f"{where}, field 'mode': must be 'sft' or 'dpo', got {record['mode']!r}")
    order = record.get("media", {}).get("frame_order") or []
    if not all(isinstance(position, int) and position >= 0 for position in order):
        raise ValueError(f"{where}, field 'media.frame_order': must be a list of positions >= 0, got {order!r}")
    _check_turns(record.get("history") or [], where, "history")


def _check_turns(turns: Any, where: str, field: str) -> None:
    if not isinstance(turns, list):
        raise ValueError(f"{where}, field '{field}': must be a list of turns, got {turns!r}")
    for turn in turns:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise ValueError(f"{where}, field '{field}': each turn needs role and content as text, got {turn!r}")


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"annotation file {path} does not exist")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            rows: list[Any] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}: not a JSON array ({error})") from error
        return rows
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: not JSON ({error})") from error
    return rows


def strip_tags(text: str) -> str:
    """Text without ``<video>``, ``<audio>`` and ``<image>``: the family's own template puts its placeholders in."""
    return _TAGS.sub("", text).strip()


def _turns(row: Row, field: str, where: str) -> list[dict[str, str]]:
    """Chat turns as role and content, from either naming of the two."""
    turns = []
    for turn in row[field] if isinstance(row[field], list) else [None]:
        turn = turn if isinstance(turn, dict) else {}
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in _ROLES or not isinstance(content, str):
            raise ValueError(
                f"{where}, field '{field}': each turn needs a role of {sorted(_ROLES)} and text, got {turn!r}"
            )
        turns.append({"role": _ROLES[role], "content": strip_tags(content)})
    return turns


def _ask(turns: list[dict[str, str]], where: str, field: str) -> Row:
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(f"{where}, field '{field}': the turn before the answer must be the user's")
    return {"prompt": turns[-1]["content"], "history": turns[:-1]}


def _media(row: Row, where: str) -> dict[str, str]:
    videos = row.get("videos", [])
    if isinstance(videos, str):
        videos = [videos]
    if not isinstance(videos, list) or len(videos) > 1 or not all(isinstance(video, str) for video in videos):
        raise ValueError(f"{where}, field 'videos': must name one video, got {videos!r}")
    return {"video": videos[0]} if videos else {}


def _text(row: Row, field: str, where: str) -> str:
    value = row[field].get("value", row[field].get("content")) if isinstance(row[field], dict) else row[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}, field '{field}': must be text, got {row[field]!r}")
    return strip_tags(value)


@register("lit_vpo", lambda row: "prompt" in row and "media" in row)
def _own(row: Row, where: str) -> Row:
    check_fields(row, where)
    return dict(row)


@register("swift_dpo", lambda row: "messages" in row and "rejected_response" in row)
def _swift_dpo(row: Row, where: str) -> Row:
    *turns, answer = _turns(row, "messages", where) or [{"role": "", "content": ""}]
    if answer["role"] != "assistant":
        raise ValueError(f"{where}, field 'messages': the last turn must be the assistant's (the chosen answer)")
    rejected = _text(row, "rejected_response", where)
    return {
        **_ask(turns, where, "messages"),
        "media": _media(row, where),
        "chosen": answer["content"],
        "rejected": rejected,
        "mode": "dpo",
    }


@register("llamafactory_sft", lambda row: "messages" in row)
def _llamafactory_sft(row: Row, where: str) -> Row:
    *turns, answer = _turns(row, "messages", where) or [{"role": "", "content": ""}]
    if answer["role"] != "assistant":
        raise ValueError(f"{where}, field 'messages': the last turn must be the assistant's (the answer to learn)")
    return {
        **_ask(turns, where, "messages"),
        "media": _media(row, where),
        "ground_truth": answer["content"],
        "mode": "sft",
    }


@register("llamafactory_dpo", lambda row: "conversations" in row and "chosen" in row and "rejected" in row)
def _llamafactory_dpo(row: Row, where: str) -> Row:
    turns = _turns(row, "conversations", where)
    pair = {name: _text(row, name, where) for name in ("chosen", "rejected")}
    return {**_ask(turns, where, "conversations"), "media": _media(row, where), **pair, "mode": "dpo"}


@register("hound_dpo", lambda row: {"prompt", "chosen", "rejected", "video"} <= row.keys())
def _hound_dpo(row: Row, where: str) -> Row:
    texts = {name: _text(row, name, where) for name in ("prompt", "chosen", "rejected")}
    meta = {"source_id": row["id"]} if isinstance(row.get("id"), str) else {}
    return {"media": {"video": row["video"]}, **texts, "history": [], "mode": "dpo", "meta": meta}
