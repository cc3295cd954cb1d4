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

from .atomic import read_lines
from .fields import Row, check_fields

Convert = Callable[[Row, str], Row | list[Row]]

_TAGS = re.compile(r"<(?:video|audio|image)>\s*")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Schema:
    """One public format.

    Attributes:
        name: Goes into ``meta.schema`` of its records.
        detect: Whether a row is of this format, from its fields alone.
        convert: Row and where it stands -> record without key (``media.video`` as the file names it), or a list of
            them: one for each answer of a conversation.

    """

    name: str
    detect: Callable[[Row], bool]
    convert: Convert


@dataclass(frozen=True)
class Annotations:
    """Records of a file and what was left aside.

    Attributes:
        records: In the order of the rows; a conversation with several answers gives several.
        row_numbers: Number of each record's row, from 1.
        num_ignored_audios: Audio files named beside the videos; this loader reads none.

    """

    records: list[Row]
    row_numbers: list[int]
    num_ignored_audios: int = 0


SCHEMAS: list[Schema] = []


def register(name: str, detect: Callable[[Row], bool]) -> Callable[[Convert], Convert]:
    """Decorator: add a format. The first registered one that detects a row converts it."""

    def add(convert: Convert) -> Convert:
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
    records = [
        (number, record)
        for number, row in enumerate(rows, start=1)
        for record in to_records(row, f"{path}, row {number}")
    ]
    audios = sum(len(_listed(row.get("audios"))) for row in rows)
    return Annotations([record for _, record in records], [number for number, _ in records], audios)


def to_records(row: Any, where: str) -> list[Row]:
    """Convert one row by its detected format and check the fields of the result.

    Raises:
        ValueError: No known format, or a bad field; the message begins with ``where``.

    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row must be an object, got {type(row).__name__}")
    for schema in SCHEMAS:
        if schema.detect(row):
            made = schema.convert(row, where)
            records = made if isinstance(made, list) else [made]
            for record in records:
                check_fields(record, where)
                record["meta"] = {**(record.get("meta") or {}), "schema": schema.name}
            return records
    known = ", ".join(schema.name for schema in SCHEMAS)
    raise ValueError(f"{where}: fields {sorted(row)} are of no known format ({known})")


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"annotation file {path} does not exist")
    lines = read_lines(path)
    if next((line.lstrip() for line in lines if line.strip()), "").startswith("["):
        try:
            rows: list[Any] = json.loads("\n".join(lines))
        except ValueError as error:
            raise ValueError(f"{path}: not a JSON array ({error})") from error
        return rows
    rows = []
    for number, line in enumerate(lines, start=1):
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
    videos = _listed(row.get("videos"))
    if len(videos) > 1 or not all(isinstance(video, str) for video in videos):
        raise ValueError(f"{where}, field 'videos': must name one video, got {videos!r}")
    return {"video": videos[0]} if videos else {}


def _listed(value: Any) -> list[Any]:
    """A field that names files: a list of them, one, or nothing (null, absent)."""
    return value if isinstance(value, list) else [value] if value else []


def _text(row: Row, field: str, where: str) -> str:
    value = row[field].get("value", row[field].get("content")) if isinstance(row[field], dict) else row[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}, field '{field}': must be text, got {row[field]!r}")
    return strip_tags(value)


@register("lit_vpo", lambda row: "prompt" in row and "media" in row)
def _own(row: Row, where: str) -> Row:
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
def _llamafactory_sft(row: Row, where: str) -> list[Row]:
    """One record for each of the assistant's turns: all are learnt, each after the turns before it."""
    turns = _turns(row, "messages", where)
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError(f"{where}, field 'messages': the last turn must be the assistant's (the answer to learn)")
    answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    return [
        {
            **_ask(turns[:number], where, "messages"),
            "media": _media(row, where),
            "ground_truth": turns[number]["content"],
            "mode": "sft",
        }
        for number in answers
    ]


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
