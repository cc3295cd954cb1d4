"""The loader: a length, a position, an epoch; the same batches for any number of workers, a state of a few bytes."""

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.utils.data import DataLoader, Dataset

from lit_vpo.batch import Batch, Count
from lit_vpo.randomness import generator

from .collate import Collator
from .plan import EpochPlan
from .quarantine import BadSample, Quarantine
from .reader import RecordReader
from .video import Clip, decode

log = logging.getLogger(__name__)

OnBadSample = Literal["quarantine", "raise"]
_Bad = tuple[str, str, str, str]  # shard, key, id, reason
_Example = tuple[dict[str, Any], list[Clip | None]]
_Item = tuple[Batch | None, list[_Bad], str | None]  # batch, samples it lost, id of the spare that fills it

# a worker that hangs in native code is reported instead of waited for; far above any honest batch
WORKER_TIMEOUT_S = 600


class ShardLoader:
    """Iterate over the batches of an epoch, from the cursor to its end.

    The cursor counts global batches over all epochs. It moves in the main process, before a batch is handed over, so
    with ``__len__`` (which keeps Lightning from fetching ahead) yielded = trained. Resuming jumps and reads nothing.

    Args:
        reader: The rows.
        collator: Makes a batch of records and clips.
        batch_size: Rows of a batch on one rank.
        num_frames: Frames of every clip.
        size: Short side of the frames; None keeps the video's.
        seed: The run's seed.
        shuffle: New order in each epoch.
        num_workers: Processes that read, decode and collate; 0 does it in the main process.
        evaluation: Every iteration starts at the first batch, and a batch left empty is skipped instead of filled.
        on_bad_sample: Note the sample and go on, or stop.
        quarantine: Folder for ``quarantine.jsonl``; None only counts.
        rank: This process; it takes batches ``rank``, ``rank + world``, ...
        world: Processes; the epoch is cut to a multiple of it, so all have as many batches.
        rows_per_video: Rows of one video that stand together where rows are shuffled; see ``EpochPlan``.
        accumulate: Batches of a rank in one optimizer step. Batches to train on carry ``window``: what their step holds
            (``lit_vpo.batch.Count``). Steps count from the epoch's first batch, as Lightning's do, so a
            ``limit_train_batches`` must be a multiple of it.

    Raises:
        ValueError: Numbers out of range.

    """

    def __init__(
        self,
        reader: RecordReader,
        collator: Collator,
        batch_size: int,
        num_frames: int,
        size: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        evaluation: bool = False,
        on_bad_sample: OnBadSample = "quarantine",
        quarantine: str | Path | None = None,
        rank: int = 0,
        world: int = 1,
        rows_per_video: int = 1,
        accumulate: int = 1,
    ) -> None:
        if on_bad_sample not in ("quarantine", "raise"):
            raise ValueError(f"on_bad_sample must be 'quarantine' or 'raise', got {on_bad_sample!r}")
        if num_frames < 1 or num_workers < 0:
            raise ValueError(f"num_frames must be >= 1 and num_workers >= 0, got {num_frames} and {num_workers}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be >= 1, got {accumulate}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in 0..{world - 1}, got {rank}")
        data = f"{reader.manifest_hash}/{reader.overlay_hash}"
        videos = [row["key"] for row in reader.rows] if rows_per_video > 1 else None
        self.plan = EpochPlan(len(reader), batch_size, seed, shuffle, data, rows_per_video, videos)
        if self.plan.num_batches < world:
            raise ValueError(f"{self.plan.num_batches} batches do not give {world} ranks one each; lower batch_size")
        self.reader, self.collator = reader, collator
        self.num_frames, self.size, self.num_workers = num_frames, size, num_workers
        self.evaluation, self.on_bad_sample = evaluation, on_bad_sample
        self.quarantine = Quarantine(quarantine)
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.cursor = 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, wherever the cursor stands (Lightning counts what is done itself)."""
        return self.plan.num_batches // self.world

    @property
    def epoch(self) -> int:
        """Epoch that the cursor stands in."""
        return self.cursor // self._epoch_batches

    @property
    def num_quarantined(self) -> int:
        """Samples found unusable by this loader."""
        return len(self.quarantine)

    def __iter__(self) -> Iterator[Batch]:
        start = 0 if self.evaluation else self.cursor
        epoch, position = divmod(start, self._epoch_batches)
        items = iter(self._dataloader(epoch, range(position + self.rank, self._epoch_batches, self.world)))
        try:
            for item in items:
                batch = self._account(item)
                if not self.evaluation:
                    self.cursor += self.world
                if batch is not None:
                    yield batch
        finally:
            _stop_workers(items)

    def state_dict(self) -> dict[str, Any]:
        """Position in the data: plain numbers and hashes, the same on every rank."""
        return {**self._identity(), "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Jump to a saved position.

        Raises:
            ValueError: The state belongs to other data, another seed or another batch size.

        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot resume: the checkpoint's {name} is {state.get(name)!r}, this run's is {value!r}; "
                    "resume with the same data and settings, or start a new run from the weights"
                )
        self.cursor = int(state["cursor"])

    @property
    def _epoch_batches(self) -> int:
        return len(self) * self.world

    def _identity(self) -> dict[str, Any]:
        return {
            "manifest_hash": self.reader.manifest_hash,
            "overlay_hash": self.reader.overlay_hash,
            "seed": self.plan.seed,
            "batch_size": self.plan.batch_size,
            "rows_per_video": self.plan.rows_per_video,
        }

    def _dataloader(self, epoch: int, positions: Sequence[int]) -> "DataLoader[_Item]":
        # made anew for every iteration: a worker that lives on would never hear of a new epoch
        return DataLoader(
            _Batches(self, epoch),
            batch_size=None,
            sampler=positions,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            timeout=WORKER_TIMEOUT_S if self.num_workers else 0,
            # DataLoader draws a base seed on every iteration: from its own generator, the global one stays untouched
            generator=generator(self.plan.seed, "workers", epoch),
        )

    def _account(self, item: _Item) -> Batch | None:
        batch, bad, spare = item
        for shard, key, record_id, reason in bad:
            if self.quarantine.add(shard, key, reason, record_id):
                log.warning("quarantined %s (%s): %s", record_id, shard, reason)
        if spare is not None:
            log.warning("a batch lost all its samples; the plan's spare %s fills it", spare)
        return batch


class _Batches(Dataset[_Item]):
    """The global batches of one epoch; an item is a whole batch, so that workers decode and collate."""

    def __init__(self, loader: ShardLoader, epoch: int) -> None:
        self.reader, self.collator, self.plan = loader.reader, loader.collator, loader.plan
        self.num_frames, self.size = loader.num_frames, loader.size
        self.evaluation, self.on_bad_sample = loader.evaluation, loader.on_bad_sample
        self.epoch, self.step_batches = epoch, loader.accumulate * loader.world
        self.batches = loader.plan.batches(epoch)[: len(loader) * loader.world]
        self.counted: dict[int, dict[str, Count]] = {}

    def __getitem__(self, position: int) -> _Item:
        bad: list[_Bad] = []
        clips: dict[object, Clip] = {}
        rows = self.batches[position]
        examples = [example for row in rows if (example := self._example(row, bad, clips)) is not None]
        if examples:
            return self._batch(examples, position), bad, None
        for row in () if self.evaluation else self.plan.spares(self.epoch, position):
            if (example := self._example(row, bad, clips)) is not None:
                return self._batch([example], position), bad, example[0]["id"]
        if self.evaluation:
            return None, bad, None
        reasons = "; ".join(sorted({reason for *_, reason in bad})[:3])
        raise ValueError(f"no sample of a batch nor any spare of it can be used: {reasons}")

    def _batch(self, examples: list[_Example], position: int) -> Batch:
        batch: Any = self.collator(examples)
        window = {} if self.evaluation else self._window(position)
        return cast(Batch, batch | {"window": window} if window else batch)

    def _window(self, position: int) -> dict[str, Count]:
        """What the optimizer step of a batch holds, per batch of a whole step (the epoch's last step may be short)."""
        first = position // self.step_batches * self.step_batches
        rows = chain.from_iterable(self.batches[first : first + self.step_batches])
        counts = [count for row in rows for count in self._counts(row).items()]
        totals: dict[str, Count] = {}
        for role, (samples, tokens) in counts:
            before = totals.get(role, Count(0.0, 0.0))
            totals[role] = Count(before.sample + samples / self.step_batches, before.token + tokens / self.step_batches)
        return totals

    def _counts(self, row: int) -> dict[str, Count]:
        """Counts of a row's texts; none where they make the record unusable."""
        if row not in self.counted:
            try:
                record = self.reader.record(row)
                self.collator.check(record)
                self.counted[row] = self.collator.counts(record)
            except BadSample:
                self.counted[row] = {}
        return self.counted[row]

    def _example(self, row: int, bad: list[_Bad], clips: dict[object, Clip]) -> _Example | None:
        """A row's record and the clip of each of its responses."""
        try:
            record = self.reader.record(row)
            self.collator.check(record)
            return record, [self._clip(row, record, shown.media, clips) for shown in self.collator.responses(record)]
        except BadSample as error:
            sample, record_id = self.reader.sample(row), self.reader.rows[row]["id"]
            if self.on_bad_sample == "raise":
                raise BadSample(f"shard {sample.shard}, sample {record_id}: {error}") from error
            bad.append((sample.shard, sample.key, record_id, str(error)))
            return None

    def _clip(self, row: int, record: dict[str, Any], media: dict[str, Any], clips: dict[object, Clip]) -> Clip | None:
        """A view of a row's video; what is seen alike in a batch is decoded once and kept in `clips`."""
        view = json.dumps([record["key"], media], sort_keys=True)
        if view not in clips:
            clip = read_clip(self.reader, row, {**record, "media": media}, self.num_frames, self.size)
            if clip is None:
                return None
            clips[view] = clip
        return clips[view]


def read_clip(reader: RecordReader, row: int, record: dict[str, Any], num_frames: int, size: int | None) -> Clip | None:
    """Decode the clip that a record speaks of: window and frame order; None for text alone (`media.video` null).

    Raises:
        BadSample: The video cannot be used.

    """
    media = record["media"]
    if media.get("video", "") is None:
        return None
    return decode(
        reader.video(row), num_frames, media.get("start_s"), media.get("end_s"), size, media.get("frame_order")
    )


def _stop_workers(items: Any) -> None:
    # left to the garbage collector (a traceback keeps the iterator), torch waits 5 s for a message that never comes
    if hasattr(items, "_shutdown_workers"):
        items._shutdown_workers()


def _unchanged(item: Any) -> Any:
    return item
