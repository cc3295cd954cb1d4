"""Errors of captions whose events were counted: missed, incorrect, hallucinated, out of order, repeated.

Who counts is not this file's business: a caption scorer is any callable `(caption, record) -> CaptionCounts`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


@dataclass(frozen=True)
class CaptionCounts:
    """What a scorer counted in one caption.

    Args:
        num_events: Events of the truth.
        missed: Events of the truth that the caption does not tell.
        incorrect: Events told wrongly (right actor, wrong act); they are not also missed.
        hallucinated: Events told that the truth does not hold.
        discordant_pairs: Pairs of rightly told events that stand in the wrong order.
        matched_pairs: Pairs of rightly told events.
        num_sentences: Sentences of the caption.
        repeated_sentences: Sentences that say nothing which an earlier one has not said.
        num_words: Words of the caption.
        unsupported_words: Words in sentences that nothing in the record supports.
    """

    num_events: int
    missed: int
    incorrect: int
    hallucinated: int
    discordant_pairs: int
    matched_pairs: int
    num_sentences: int
    repeated_sentences: int
    num_words: int
    unsupported_words: int


_FIELDS = tuple(field.name for field in fields(CaptionCounts))
_TOTALS = (*_FIELDS, "repeating_captions", "num_captions")


def asked_events(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Events that a record's prompt asks about: all, or those of the interval that `meta.interval` names.

    Prompts of scope `interval` show the whole video and name a part of it. An event belongs to it if its middle
    lies in [start_s, end_s), so that intervals side by side share no event and lose none.

    Args:
        record: With `events` ({text, start_s, end_s, modality}); its times and `meta.interval` count from the video's
            beginning.

    Raises:
        ValueError: If it asks about an interval and an event has no times.
    """
    events: list[dict[str, Any]] = record.get("events") or []
    interval = (record.get("meta") or {}).get("interval")
    if interval is None:
        return events
    if any(event.get("start_s") is None or event.get("end_s") is None for event in events):
        raise ValueError(f"record {record.get('id')!r} asks about an interval; give each event start_s and end_s")
    start, end = interval
    return [event for event in events if start <= (event["start_s"] + event["end_s"]) / 2 < end]


def _caption_errors_update(counts: CaptionCounts) -> Tensor:
    """The addends of one caption to the totals: (12,) long, in the order of `_TOTALS`."""
    return torch.tensor([*astuple(counts), int(counts.repeated_sentences > 0), 1])


def _caption_errors_compute(totals: Tensor) -> dict[str, Tensor]:
    """Ratios of totals: () float64 on the CPU, nan where the denominator is 0."""
    # Lightning moves what is logged to its device, which may have no float64
    total = dict(zip(_TOTALS, totals.cpu().double().unbind(), strict=True))
    num_events, num_captions = total["num_events"], total["num_captions"]
    kinds = ("missed", "incorrect", "hallucinated")
    errors = {f"event_error/{kind}": total[kind] / num_events for kind in kinds}
    return {
        "event_error/total": torch.stack([total[kind] for kind in kinds]).sum() / num_events,
        **errors,
        "order_error": total["discordant_pairs"] / total["matched_pairs"],
        "repetition": total["repeating_captions"] / num_captions,
        "num_words": total["num_words"] / num_captions,
        "unsupported_words": total["unsupported_words"] / num_captions,
    }


def caption_errors(counts: Iterable[CaptionCounts]) -> dict[str, Tensor]:
    """Error rates over a set of captions; the functional form of `CaptionErrors`.

    Args:
        counts: One per caption.

    Returns:
        See `CaptionErrors.compute`.
    """
    rows = [_caption_errors_update(each) for each in counts]
    totals = torch.stack(rows).sum(0) if rows else torch.zeros(len(_TOTALS), dtype=torch.long)
    return {name: value.float() for name, value in _caption_errors_compute(totals).items()}


class CaptionErrors(Metric):
    """Error rates over a set of captions, as ratios of sums: a clip with many events weighs more than one with few.

    The state is one vector of totals, so uneven batches and ranks add up to the same rates.

    Example:
        >>> errors = CaptionErrors()
        >>> errors.update(CaptionCounts(4, 1, 0, 1, 1, 3, 4, 0, 20, 0))
        >>> float(errors.compute()["event_error/total"])
        0.5
    """

    is_differentiable = False
    full_state_update = False
    totals: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("totals", torch.zeros(len(_TOTALS), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, counts: CaptionCounts) -> None:
        """Adds one caption."""
        self.totals += _caption_errors_update(counts).to(self.totals.device)

    def compute(self) -> dict[str, Tensor]:
        """The rates so far: () float32 each, nan where nothing was counted that could be wrong.

        Returns:
            `event_error/missed`, `/incorrect`, `/hallucinated` and their sum `event_error/total` (each over the events
            of the truth), `order_error` (discordant pairs over matched pairs), `repetition` (share of captions that
            repeat themselves), `num_words` and `unsupported_words` (means per caption).
        """
        return {name: value.float().to(self.device) for name, value in _caption_errors_compute(self.totals).items()}
