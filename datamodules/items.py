"""Items of the DataLoader: whole batches, so that workers read, decode and collate."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Any, Literal, NamedTuple, cast

from torch.utils.data import Dataset

from lit_vpo.batch import Batch, Count

from .batching import Batches
from .clips import ClipReader
from .collate import Collator
from .plan import EpochPlan
from .quarantine import BadSample
from .reader import RecordReader
from .video import Clip

OnBadSample = Literal["quarantine", "raise"]
_Example = tuple[dict[str, Any], list[Clip | None]]


class Bad(NamedTuple):
    """A sample that cannot be used."""

    shard: str
    key: str
    record_id: str
    reason: str


class Item(NamedTuple):
    """What becomes of a batch of the plan."""

    batch: Batch | None  # None where evaluation skips a batch that lost all its samples
    bad: list[Bad]  # the samples it lost
    usable: list[bool]  # of every sample that was read, in order
    spare: str | None  # id of the record that fills a batch left empty


@dataclass(frozen=True)
class Steps:
    """How batches form optimizer steps; positions count global batches from the beginning of an epoch.

    Attributes:
        batches: Batches of one step, over all ranks.
        offset: Where the first step of this epoch begins; steps count as Lightning's do, also after a resume.
        stop: Where the epoch's last step ends; beyond the plan's last batch where it takes some of the next epoch.

    """

    batches: int
    offset: int
    stop: int

    def around(self, position: int) -> range:
        """Positions of the step that holds a position (the epoch's last step may be short)."""
        first = self.offset + (position - self.offset) // self.batches * self.batches
        return range(max(first, 0), min(first + self.batches, self.stop))


class BatchItems(Dataset[Item]):
    """The global batches of one epoch, and those of the next that its last step takes.

    Args:
        reader: The rows.
        collator: Makes a batch of records and clips.
        plan: Which rows stand in which batch.
        clip_reader: Decodes.
        epoch: Which epoch.
        steps: Gives every batch its ``window``; None for evaluation, whose batches left empty stay so.
        on_bad_sample: Note the sample and go on, or stop.

    """

    def __init__(
        self,
        reader: RecordReader,
        collator: Collator,
        plan: EpochPlan,
        clip_reader: ClipReader,
        epoch: int,
        steps: Steps | None,
        on_bad_sample: OnBadSample,
    ) -> None:
        self.reader, self.collator, self.plan, self.clip_reader = reader, collator, plan, clip_reader
        self.epoch, self.steps, self.on_bad_sample = epoch, steps, on_bad_sample
        # planned here, before workers start, which then share it
        last = 0 if steps is None else (steps.stop - 1) // plan.num_batches
        self.planned: list[Batches] = [plan.batches(epoch + ahead) for ahead in range(last + 1)]
        self._step, self._totals = range(0), dict[str, Count]()

    def __getitem__(self, position: int) -> Item:
        bad: list[Bad] = []
        usable: list[bool] = []
        clips: dict[object, Clip] = {}
        examples = list(self._examples(self._rows(position), bad, usable, clips))
        if examples:
            return Item(self._batch(examples, position), bad, usable, None)
        if self.steps is None:
            return Item(None, bad, usable, None)
        ahead, batch = divmod(position, self.plan.num_batches)
        spares = self.plan.spares(self.epoch + ahead, batch)
        for example in self._examples(spares, bad, usable, clips):
            return Item(self._spare(example, position), bad, usable, example[0]["id"])
        reasons = "; ".join(sorted({sample.reason for sample in bad})[:3])
        raise ValueError(f"no sample of a batch nor any spare of it can be used: {reasons}")

    def _rows(self, position: int) -> list[int]:
        ahead, batch = divmod(position, self.plan.num_batches)
        return self.planned[ahead][batch]

    def _batch(self, examples: list[_Example], position: int) -> Batch:
        batch: Any = self.collator(examples)
        window = {} if self.steps is None else self._window(self.steps, position)
        return cast(Batch, batch | {"window": window} if window else batch)

    def _window(self, steps: Steps, position: int) -> dict[str, Count]:
        """What the optimizer step of a batch holds, per batch of a whole step (the epoch's last step may be short).

        Known from the plan alone, before anything is decoded: a sample that turns out unusable keeps its share.
        """
        step = steps.around(position)
        if step != self._step:  # its batches follow one another, and share what was counted
            rows = [row for place in step for row in self._rows(place)]
            counts = self.collator.texts.counts(list(self._planned(rows)))
            self._step, self._totals = step, _totals(counts, steps.batches)
        return self._totals

    def _spare(self, example: _Example, position: int) -> Batch:
        """A batch of a spare: it takes the share of the samples it stands for, whatever its own text and weight."""
        batch: Any = self._batch([example], position)
        counts = self.collator.texts.counts
        lost = _totals(counts(list(self._planned(self._rows(position)))), 1)
        own = _totals(counts([example[0]]), 1)
        window = batch.get("window", {})
        shared = {
            role: Count(*(_scaled(*numbers) for numbers in zip(window[role], own[role], lost[role], strict=True)))
            for role in window.keys() & own.keys() & lost.keys()
        }
        return cast(Batch, batch | {"window": window | shared} if shared else batch)

    def _planned(self, rows: list[int]) -> Iterator[dict[str, Any]]:
        for row in rows:
            with suppress(BadSample):
                yield self.reader.fields(row, self.collator.texts.counted_fields)

    def _examples(
        self, rows: list[int], bad: list[Bad], usable: list[bool], clips: dict[object, Clip]
    ) -> Iterator[_Example]:
        """The rows that can be used; the others are noted, or stop the run."""
        for row in rows:
            try:
                example = self._example(row, clips)
            except BadSample as error:
                sample, record_id = self.reader.sample(row), self.reader.rows[row]["id"]
                if self.on_bad_sample == "raise":
                    raise BadSample(f"shard {sample.shard}, sample {record_id}: {error}") from error
                bad.append(Bad(sample.shard, sample.key, record_id, str(error)))
                usable.append(False)
            else:
                usable.append(True)
                yield example

    def _example(self, row: int, clips: dict[object, Clip]) -> _Example:
        """A row's record and the clip of each of its responses."""
        record = self.reader.record(row)
        self.collator.texts.check(record)
        return record, [self._clip(row, record, shown.media, clips) for shown in self.collator.texts.responses(record)]

    def _clip(self, row: int, record: dict[str, Any], media: dict[str, Any], clips: dict[object, Clip]) -> Clip | None:
        """A view of a row's video; what is seen alike in a batch is decoded once and kept in `clips`."""
        view = json.dumps([record["key"], media], sort_keys=True)
        if view not in clips:
            clip = self.clip_reader.clip(row, {**record, "media": media})
            if clip is None:
                return None
            clips[view] = clip
        return clips[view]


def _totals(counts: Iterable[dict[str, Count]], num_batches: int) -> dict[str, Count]:
    """Sums over records for each role, shared out over batches."""
    totals: dict[str, Count] = {}
    for role, (samples, tokens) in chain.from_iterable(record.items() for record in counts):
        before = totals.get(role, Count(0.0, 0.0))
        totals[role] = Count(before.sample + samples, before.token + tokens)
    return {role: Count(total.sample / num_batches, total.token / num_batches) for role, total in totals.items()}


def _scaled(held: float, own: float, lost: float) -> float:
    """What a sum over the spare is divided by, so that its mean weighs as much as the lost samples' would have."""
    return held * own / lost if lost else inf
