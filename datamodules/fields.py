"""The types of a record's known fields, checked wherever a record comes in: annotations, overlays, a sample's json."""

import math
from typing import Any

Row = dict[str, Any]
MAX_NUMBER = 1e9  # of seconds, weights, scores: what is above is a mistake

_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "media": (dict,),
    "prompt": (str,),
    "history": (list,),
    "chosen": (str,),
    "rejected": (str,),
    "negatives": (list,),
    "views": (dict,),
    "ground_truth": (str,),
    "mode": (str,),
    "weight": (int, float),
    "events": (list,),
    "r": (int,),
    "perturbation": (dict,),
    "difficulty": (int, float),
    "scores": (dict,),
    "meta": (dict,),
}
_MEDIA_TYPES: dict[str, tuple[type, ...]] = {
    "video": (str,),
    "frames_dir": (str,),
    "image": (str,),
    "audio": (str,),
    "use_audio": (bool,),
    "start_s": (int, float),
    "end_s": (int, float),
    "frame_indices": (list,),
    "frame_order": (list,),
    "splice": (dict,),
}
# what a negative may see otherwise: the video stays the record's
_VIEW_FIELDS = ("start_s", "end_s", "frame_indices", "frame_order", "splice")


def check_fields(record: Row, where: str) -> None:
    """Check the types of a record's known fields (any may be absent or null).

    Raises:
        ValueError: Names ``where`` and the field.

    """
    _check_types(record, _FIELD_TYPES, where)
    meta = record.get("meta") or {}
    _check_media(record.get("media") or {}, where)
    if record.get("mode") not in (None, "sft", "dpo"):
        raise ValueError(f"{where}, field 'mode': must be 'sft' or 'dpo', got {record['mode']!r}")
    weight = record.get("weight")
    if weight is not None and not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{where}, field 'weight': must be a finite number >= 0, got {weight!r}")
    options = meta.get("options")
    if options is not None and not (isinstance(options, list) and all(isinstance(text, str) for text in options)):
        raise ValueError(f"{where}, field 'meta.options': must be a list of texts, got {options!r}")
    _check_turns(record.get("history") or [], where)
    _check_negatives(record.get("negatives") or [], where)
    for role, view in (record.get("views") or {}).items():
        if role not in ("chosen", "rejected"):
            raise ValueError(f"{where}, field 'views': may name chosen and rejected, got {role!r}")
        _check_view(view, where, f"views.{role}")


def _check_types(fields: Row, types: dict[str, tuple[type, ...]], where: str, prefix: str = "") -> None:
    for name, kinds in types.items():
        value = fields.get(name)
        # True is an int to Python
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) is not (kinds == (bool,))):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{where}, field '{prefix}{name}': must be {wanted}, got {value!r}")
        # json knows nan and infinity, and integers of any size
        if isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
            raise ValueError(
                f"{where}, field '{prefix}{name}': must be a number below {MAX_NUMBER:g}, not {str(value)[:20]}"
            )


def _check_media(media: Row, where: str, prefix: str = "media.") -> None:
    _check_types(media, _MEDIA_TYPES, where, prefix)
    _check_numbers(media.get("frame_order") or [], where, f"{prefix}frame_order")
    if (indices := media.get("frame_indices")) is not None:
        _check_numbers(indices, where, f"{prefix}frame_indices", at_least=1)
        if media.get("start_s") is not None or media.get("end_s") is not None:
            raise ValueError(
                f"{where}, field '{prefix}frame_indices': names frames of the whole video; leave out start_s and end_s"
            )
    if (splice := media.get("splice")) is not None:
        if set(splice) != {"key", "positions"} or not isinstance(splice["key"], str):
            raise ValueError(f"{where}, field '{prefix}splice': must be {{key, positions}}, got {splice!r}")
        _check_numbers(splice["positions"], where, f"{prefix}splice.positions", at_least=1)


def _check_numbers(numbers: Any, where: str, name: str, at_least: int = 0) -> None:
    good = isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)
    if not good or len(numbers) < at_least:
        some = "a list" if not at_least else "a list of one or more"
        raise ValueError(f"{where}, field '{name}': must be {some} of positions >= 0, got {numbers!r}")


def _check_negatives(negatives: list[Any], where: str) -> None:
    for number, negative in enumerate(negatives):
        name = f"negatives[{number}]"
        if not isinstance(negative, dict) or not isinstance(negative.get("text"), str):
            raise ValueError(f"{where}, field '{name}': must be an object with a text, got {negative!r}")
        _check_view(negative.get("media") or {}, where, f"{name}.media")


def _check_view(view: Any, where: str, name: str) -> None:
    if not isinstance(view, dict) or set(view) - set(_VIEW_FIELDS):
        raise ValueError(f"{where}, field '{name}': may override {', '.join(_VIEW_FIELDS)}, got {view!r}")
    _check_media(view, where, f"{name}.")


def _check_turns(turns: list[Any], where: str) -> None:
    for turn in turns:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise ValueError(f"{where}, field 'history': each turn needs role and content as text, got {turn!r}")
