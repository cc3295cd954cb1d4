"""A record's texts as tokens: whether they can make its rows, and what they add to an optimizer step."""

from collections.abc import Sequence
from typing import Any

from lit_vpo.batch import Count

from .quarantine import BadSample
from .responses import KINDS, Kind, Record, Response, check_texts, is_pair, responses_of

_COUNTED = ("chosen", "ground_truth", "sft")  # roles that losses average over


class Texts:
    """What a model's tokenizer makes of records of one kind.

    Args:
        processor: A family's processor.
        kind: What a row is: an answer to learn, one of a pair, a prompt to continue, or a question's option.
        with_ground_truth: A record among pairs has a last row that holds the ground truth.
        num_negatives: Rejected responses of a record among pairs.

    Raises:
        ValueError: An unknown kind, a number below 1, or a tokenizer without the tokens that are needed.

    """

    def __init__(self, processor: Any, kind: Kind, with_ground_truth: bool = False, num_negatives: int = 1) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be >= 1, got {num_negatives}")
        self.kind, self.with_ground_truth, self.num_negatives = kind, with_ground_truth, num_negatives
        self.tokenizer = processor.tokenizer
        self.eos_token_id = self.tokenizer.eos_token_id
        if self.eos_token_id is None:
            raise ValueError("the processor's tokenizer has no eos_token; a response could never end")
        tokens = (getattr(processor, "video_token", None), getattr(processor, "image_token", None))
        self.media_tokens = [token for token in tokens if token]

    @property
    def counted_fields(self) -> tuple[str, ...]:
        """Fields that :meth:`counts` reads of a record, beside its weight."""
        if self.kind == "instruction":
            return ("ground_truth",)
        if self.kind != "preference":
            return ()
        more = [("negatives", self.num_negatives > 1), ("ground_truth", self.with_ground_truth)]
        return ("chosen", "rejected", *(name for name, needed in more if needed))

    def responses(self, record: Record) -> list[Response]:
        """A record's rows in their order."""
        return responses_of(record, self.kind, self.with_ground_truth, self.num_negatives)

    def check(self, record: Record) -> None:
        """Refuse a record that can make no row, before its video is read.

        Raises:
            BadSample: As :func:`check_texts`, half a character or a media token of the model in a text, or texts that
                are no tokens or the same ones.

        """
        self.check_characters(record)
        rows = self.responses(record)
        ids = self.tokenize([row.text for row in rows])
        if self.kind == "preference" and is_pair(record):
            self._check_tokens(rows[: 1 + self.num_negatives], ids)

    def check_characters(self, record: Record) -> None:
        """The part of :meth:`check` that needs no tokenizer, which takes most of its time.

        Raises:
            BadSample: See there.

        """
        check_texts(record, self.kind, self.with_ground_truth, self.num_negatives)
        texts = self.all(record)
        if not all(_is_unicode(text) for text in texts):
            raise BadSample("a text holds half a character (a lone surrogate)")
        if any(token in text for token in self.media_tokens for text in texts):
            raise BadSample(f"a text contains a media placeholder of the model ({', '.join(self.media_tokens)})")

    def all(self, record: Record) -> list[str]:
        """History, prompt and responses."""
        turns = [turn["content"] for turn in record.get("history") or ()]
        return [*turns, record["prompt"], *(row.text for row in self.responses(record))]

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids of responses, each ended by eos; none where rows are prompts.

        Raises:
            BadSample: A text makes no token.

        """
        if self.kind == "prompt":
            return [[] for _ in texts]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for text, row in zip(texts, ids, strict=True):
            if not row:
                raise BadSample(f"the tokenizer makes no token of {text!r}")
        return [[*row, self.eos_token_id] for row in ids]

    def counts(self, records: Sequence[Record]) -> list[dict[str, Count]]:
        """What each record adds to its optimizer step: responses and tokens of the roles that losses average over.

        Tokenised in one call: a step of many ranks has many records. A record without a text counts nothing.
        """
        roles = [self._counted(record) for record in records]
        texts = [text for texts in roles for text in texts.values()]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        lengths = iter([len(row) + 1 for row in ids])
        weights = [weight_of(record) for record in records]
        return [
            {role: Count(weight, weight * next(lengths)) for role in texts}
            for weight, texts in zip(weights, roles, strict=True)
        ]

    def _counted(self, record: Record) -> dict[str, str]:
        if not self.counted_fields:
            return {}
        try:
            rows = self.responses(record)
        except BadSample:
            return {}
        counted = [row for row in rows if row.role in _COUNTED and row.text.strip()]
        return {row.role: row.text for row in counted if _is_unicode(row.text)}

    def _check_tokens(self, rows: list[Response], ids: list[list[int]]) -> None:
        """Texts that differ may still be the same tokens, and make no pair."""
        for row, tokens in zip(rows[1:], ids[1 : len(rows)], strict=True):
            if tokens == ids[0] and row.media == rows[0].media:
                raise BadSample(f"chosen = {row.role} as tokens")


def weight_of(record: Record) -> float:
    """A record's weight in means; 1 where it has none."""
    weight = record.get("weight")
    return 1.0 if weight is None else float(weight)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
