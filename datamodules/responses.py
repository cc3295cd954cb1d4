"""A record's responses: the rows it makes, and whether they can."""

from typing import Any, Literal, NamedTuple

from .quarantine import BadSample

Kind = Literal["instruction", "preference", "prompt", "question"]
KINDS: tuple[Kind, ...] = ("instruction", "preference", "prompt", "question")

Record = dict[str, Any]


class Response(NamedTuple):
    """One row's text, and what of the video it looks at."""

    role: str
    text: str
    media: Record


def responses_of(record: Record, kind: Kind, with_ground_truth: bool = False, num_negatives: int = 1) -> list[Response]:
    """A record's rows in their order (a prompt's row has an empty text).

    Raises:
        BadSample: It has fewer rejected responses than `num_negatives`.

    """
    media = _view(record.get("media") or {})
    if kind == "preference":
        return _compared(record, media, with_ground_truth, num_negatives)
    if kind == "question":
        return [Response("option", text, media) for text in (record.get("meta") or {}).get("options") or []]
    if kind == "prompt":
        return [Response("prompt", "", media)]
    return [Response("ground_truth", record.get("ground_truth") or "", media)]


def is_pair(record: Record) -> bool:
    """Whether a record among pairs is one: all are but those of mode `sft` that have no responses to compare.

    The mode alone does not tell, because a pair's row is laid over the sample's own record, which may be one for SFT.
    """
    return record.get("mode") != "sft" or bool(record.get("chosen") or record.get("rejected"))


def _compared(record: Record, media: Record, with_ground_truth: bool, num_negatives: int) -> list[Response]:
    """Chosen, `num_negatives` rejected responses (`rejected`, then `negatives`), ground truth where wanted.

    A record that is no pair stands among pairs with its ground truth in every role: one response, no comparison.
    """
    if not is_pair(record):
        return [Response("sft", record.get("ground_truth") or "", media)] * (1 + num_negatives + with_ground_truth)
    negatives = record.get("negatives") or []
    if len(negatives) + 1 < num_negatives:
        raise BadSample(f"{1 + len(negatives)} rejected responses where num_negatives is {num_negatives}")
    views = record.get("views") or {}
    rows = []
    for name in ("chosen", "rejected"):
        rows.append(Response(name, record.get(name) or "", _view({**media, **(views.get(name) or {})})))
    for number, negative in enumerate(negatives[: num_negatives - 1]):
        view = _view({**media, **(negative.get("media") or {})})
        rows.append(Response(f"negatives[{number}]", negative["text"], view))
    return rows + [Response("ground_truth", record.get("ground_truth") or "", media)] * with_ground_truth


def _view(media: Record) -> Record:
    """The same media without fields that are null, so that equal views are equal (a null video means text alone)."""
    return {name: value for name, value in media.items() if value is not None or name == "video"}


def check_texts(record: Record, kind: Kind, with_ground_truth: bool = False, num_negatives: int = 1) -> None:
    """Refuse a record whose texts cannot make the rows of a kind.

    Raises:
        BadSample: An empty text, too few rejected responses, one that is chosen (of the same view of the video), or
            options without the right answer among them.

    """
    if not (record.get("prompt") or "").strip():
        raise BadSample("empty prompt")
    rows = responses_of(record, kind, with_ground_truth, num_negatives)
    texts = [row.text for row in rows]
    if kind == "question" and (
        len(texts) < 2 or len(set(texts)) < len(texts) or record.get("ground_truth") not in texts
    ):
        raise BadSample("a question needs two or more different meta.options, and ground_truth among them")
    for row in rows if kind != "prompt" else ():
        if not row.text.strip():
            raise BadSample(f"empty {row.role}")
    compared = kind == "preference" and is_pair(record)
    for row in rows[1 : 1 + num_negatives] if compared else ():
        if row.text.strip() == rows[0].text.strip() and row.media == rows[0].media:
            raise BadSample(f"chosen = {row.role}")
