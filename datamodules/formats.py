"""What every public format is made of: the registry, chat turns, texts, and the names of media files."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .fields import Row

Convert = Callable[[Row, str], Row | list[Row]]

_TAGS = re.compile(r"<(?:video|audio|image)>\s*")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Schema:
    """One public format.

    Attributes:
        name: Goes into ``meta.schema`` of its records.
        detect: Whether a row is of this format, from its fields alone.
        convert: Row and where it stands -> record without key (``media`` names files as the row does), or a list of
            them: one for each answer of a conversation.

    """

    name: str
    detect: Callable[[Row], bool]
    convert: Convert


SCHEMAS: list[Schema] = []


def register(name: str, detect: Callable[[Row], bool]) -> Callable[[Convert], Convert]:
    """Decorator: add a format. The first registered one that detects a row converts it."""

    def add(convert: Convert) -> Convert:
        SCHEMAS.append(Schema(name, detect, convert))
        return convert

    return add


def strip_tags(text: str) -> str:
    """Text without ``<video>``, ``<audio>`` and ``<image>``: the family's own template puts its placeholders in."""
    return _TAGS.sub("", text).strip()


def said_by(turn: Any) -> str:
    """Who says a turn, in the format's own word; empty where it does not say."""
    role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    return role if isinstance(role, str) else ""


def turns_of(value: Any, field: str, where: str, roles: dict[str, str] | None = None) -> list[dict[str, str]]:
    """Chat turns as role and content, from either naming of the two.

    Args:
        value: A list of turns; a content may be a list of parts, of which the texts count.
        field: Its name.
        where: Begin of a message.
        roles: More roles than the usual ones: the format's word -> user, assistant, or another.

    Raises:
        ValueError: No list, or a turn without a known role or without text.

    """
    known, turns = _ROLES | (roles or {}), []
    for turn in value if isinstance(value, list) else [None]:
        role = said_by(turn)
        content = _content(turn.get("content", turn.get("value"))) if isinstance(turn, dict) else None
        if role not in known or content is None:
            raise ValueError(
                f"{where}, field '{field}': each turn needs a role of {sorted(known)} and text, got {turn!r}"
            )
        turns.append({"role": known[role], "content": strip_tags(content)})
    return turns


def ask(turns: list[dict[str, str]], where: str, field: str) -> Row:
    """Prompt and history of turns whose last is the user's.

    Raises:
        ValueError: It is not.

    """
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(f"{where}, field '{field}': the turn before the answer must be the user's")
    return {"prompt": turns[-1]["content"], "history": turns[:-1]}


def pair_fields(row: Row) -> list[str]:
    """Fields that by their names hold one answer of a pair."""
    return sorted(field for field in row if field.lower().startswith(("reject", "chosen")))


def no_pair(row: Row, where: str) -> None:
    """Refuse a row of answers to learn that has a field of a pair too.

    Raises:
        ValueError: It names the field.

    """
    if fields := pair_fields(row):
        raise ValueError(
            f"{where}, field '{fields[0]}': a pair in no known format; name its answers as in the formats of pairs"
        )


def text_of(row: Row, field: str, where: str) -> str:
    """A field's text without media tags; a turn as an object is its content.

    Raises:
        ValueError: It holds none.

    """
    value = row.get(field)
    value = _content(value.get("value", value.get("content")) if isinstance(value, dict) else value)
    if value is None or not value.strip():
        raise ValueError(f"{where}, field '{field}': must be text, got {row.get(field)!r}")
    return strip_tags(value)


def files_of(row: Row, where: str, **fields: str) -> Row:
    """The media of a record, from fields that name one file, a list of one, or nothing.

    ``video``, ``audio`` and ``image`` are read from the plural too.

    Args:
        row: The row.
        where: Begin of a message.
        fields: The record's word -> the row's field.

    Raises:
        ValueError: A field names several files, or something else than files, or both spellings of it name some.

    """
    media: Row = {}
    for name, given in fields.items():
        field = _spelled(row, given, where)
        files = listed(row.get(field))
        if len(files) > 1 or not all(isinstance(file, str) for file in files):
            raise ValueError(f"{where}, field '{field}': must name one file, got {files!r}")
        if files:
            media[name] = files[0]
    return media


def listed(value: Any) -> list[Any]:
    """A field that names files: a list of them, one, or nothing (null, absent)."""
    return value if isinstance(value, list) else [value] if value else []


def _spelled(row: Row, field: str, where: str) -> str:
    """The one of ``video`` and ``videos`` that names files."""
    single = field.removesuffix("s")
    if single not in ("video", "audio", "image"):
        return field
    named = [name for name in (single, f"{single}s") if row.get(name)]
    if len(named) > 1:
        raise ValueError(f"{where}, field '{single}s': names files, and so does '{single}'; keep one of the two")
    return named[0] if named else field


def _content(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return "".join(part["text"] for part in value if isinstance(part.get("text"), str))
    return value if isinstance(value, str) else None
