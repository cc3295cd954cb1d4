"""The loader: a length, a position, an epoch; the same batches for any number of workers, a state of a few bytes."""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lit_vpo.batch import Batch
from lit_vpo.randomness import generator

from .clips import ClipReader
from .collate import Collator
from .fault_limits import FaultLimits
from .items import BatchItems, Item, OnBadSample, Steps
from .lengths import known_lengths
from .order import Ints
from .plan import EpochPlan
from .position import Position
from .quarantine import Quarantine
from .reader import RecordReader
from .training_loop import TrainingLoop

log = logging.getLogger(__name__)

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
        quarantine: Folder for ``quarantine.jsonl``, and for rows' lengths where they are needed; None keeps neither.
        rank: This process; it takes batches ``cursor + rank``, ``cursor + rank + world``, ...
        world: Processes; all have as many batches, see ``Position``.
        rows_per_video: Rows of one video that stand together where rows are shuffled; see ``EpochPlan``.
        accumulate: Batches of a rank in one optimizer step. Batches to train on carry ``window``: what their step holds
            (``lit_vpo.batch.Count``). Steps count from the epoch's first batch, as Lightning's do.
        tokens_per_batch: Fill a batch up to so many tokens, instead of ``batch_size`` rows; see ``EpochPlan``.
        world_multiple: An epoch's batches are a multiple of it; see ``EpochPlan``. Evaluation is not padded.
        shuffle_window: Rows that are shuffled among each other; see ``EpochPlan``.
        weights: Shares of the overlays that the reader's rows come from; empty where they are not mixed.
        origins: The overlay of each row, needed with ``weights``.
        max_bad_in_a_row: Unusable samples one after the other that do not stop the run yet.
        max_bad_fraction: The same as a part of an epoch's samples.
        loop: Lightning's loop, whose count of batches follows this one; None where nothing but the loader counts.
        clip_reader: Decodes the clips, by another rule than ``num_frames`` and ``size``; None takes those.

    Raises:
        ValueError: Numbers out of range, or another rank has other data.

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
        tokens_per_batch: int | None = None,
        world_multiple: int = 8,
        shuffle_window: int = 10_000,
        weights: Sequence[float] = (),
        origins: Ints | None = None,
        max_bad_in_a_row: int = 100,
        max_bad_fraction: float = 0.5,
        loop: TrainingLoop | None = None,
        clip_reader: ClipReader | None = None,
    ) -> None:
        if on_bad_sample not in ("quarantine", "raise"):
            raise ValueError(f"on_bad_sample must be 'quarantine' or 'raise', got {on_bad_sample!r}")
        if num_frames < 1 or num_workers < 0:
            raise ValueError(f"num_frames must be >= 1 and num_workers >= 0, got {num_frames} and {num_workers}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be >= 1, got {accumulate}")
        self.reader, self.collator = reader, collator
        self.clip_reader, self.num_workers = clip_reader or ClipReader(reader, num_frames, size), num_workers
        self.plan = EpochPlan(
            len(reader),
            batch_size,
            seed,
            shuffle,
            data=f"{reader.manifest_hash}/{reader.overlay_hash}",
            rows_per_video=rows_per_video,
            videos=_numbers([row["key"] for row in reader.rows]) if rows_per_video > 1 else None,
            shards=_numbers([reader.sample(row).shard for row in range(len(reader))]),
            window=shuffle_window,
            tokens_per_batch=tokens_per_batch,
            lengths=known_lengths(reader, collator, self.clip_reader, quarantine) if tokens_per_batch else None,
            world_multiple=1 if evaluation else world_multiple,
            weights=weights,
            origins=origins,
        )
        self.position = Position(self.plan.num_batches, rank, world, accumulate)
        self.evaluation, self.on_bad_sample = evaluation, on_bad_sample
        self.quarantine, self.limits = Quarantine(quarantine), FaultLimits(max_bad_in_a_row, max_bad_fraction)
        self.loop, self._first = loop, 0
        if loop is not None and not evaluation:
            loop.check_ranks_agree(self._identity())

    def __len__(self) -> int:
        """Batches of this epoch on this rank: those handed out and those left."""
        return self.position.length

    @property
    def cursor(self) -> int:
        """Global batches handed out, over all ranks and epochs."""
        return self.position.cursor

    @property
    def epoch(self) -> int:
        """Epoch that the cursor stands in."""
        return self.position.epoch

    @property
    def num_quarantined(self) -> int:
        """Samples found unusable by this loader."""
        return len(self.quarantine)

    def __iter__(self) -> Iterator[Batch]:
        if self.evaluation:
            return self._evaluate()
        self.position.begin()
        return self._iterate(self.position)

    def state_dict(self) -> dict[str, Any]:
        """Position in the data: plain numbers and hashes, the same on every rank.

        A batch that was handed over and not trained on, or whose optimizer step is not taken yet, comes again.
        """
        return {**self._identity(), **self.position.state(None if self.loop is None else self.loop.trained)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Jump to a saved position, which another number of ranks or workers may have reached.

        Raises:
            ValueError: The state belongs to other data, another seed or other settings of the plan.

        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot resume: the checkpoint's {name} is {state.get(name)!r}, this run's is {value!r}; "
                    "resume with the same data and settings, or start a new run from the weights"
                )
        self.position.load(state)

    def prompt_identity(self) -> dict[str, Any]:
        """What makes the batches of an evaluation: the rows, how they are cut, and what is seen of their videos."""
        return self._identity() | {"sampling": repr(self.clip_reader.sampling), "size": self.clip_reader.size}

    def begin_after(self, answered: Collection[str]) -> set[str]:
        """Let the next evaluation begin with the batch that holds the last of these records; nothing is decoded.

        That batch comes again: whether all of it was answered, nobody knows.

        Args:
            answered: Ids of records.

        Returns:
            Ids of the records of the batches before it, which are left out.

        """
        known = set(answered)
        batches = [[self.reader.rows[row]["id"] for row in batch] for batch in self.plan.batches(0)]
        self._first = max((number for number, ids in enumerate(batches) if not known.isdisjoint(ids)), default=0)
        return {name for ids in batches[: self._first] for name in ids}

    def _identity(self) -> dict[str, Any]:
        hashes = {"manifest_hash": self.reader.manifest_hash, "overlay_hash": self.reader.overlay_hash}
        return hashes | self.plan.identity()

    def _evaluate(self) -> Iterator[Batch]:
        # a generator, like `_iterate`: where to begin may be said until the first batch is asked for
        position = Position(self.plan.num_batches)
        position.load({"cursor": self._first, "done": self._first})
        self._first = 0
        yield from self._iterate(position)

    def _iterate(self, position: Position) -> Iterator[Batch]:
        # a generator: a state that is loaded between iter() and the first batch still counts
        position.start()
        self._tell(position)
        items = iter(self._dataloader(position))
        try:
            for item in items:
                batch = self._account(item)
                position.advance()
                if batch is not None:
                    yield batch
        finally:
            _stop_workers(items)

    def _tell(self, position: Position) -> None:
        """Begin an epoch: count its samples anew, and say what it leaves out."""
        self.limits.begin(self.plan.num_epoch_rows / position.world)
        if self.evaluation:
            return
        if self.loop is not None:
            self.loop.begin(position.done, position.length)
        if position.num_unused:
            numbers = position.epoch, position.num_unused, position.world, position.num_batches
            log.info("epoch %d: %d batches at its end stay unused, %d ranks do not divide %d", *numbers)

    def _dataloader(self, position: Position) -> "DataLoader[Item]":
        start, world = position.in_epoch, position.world
        stop = start + position.steps_left * world
        steps = None if self.evaluation else Steps(position.accumulate * world, start - position.done * world, stop)
        items = BatchItems(
            self.reader, self.collator, self.plan, self.clip_reader, position.epoch, steps, self.on_bad_sample
        )
        if items.planned[0].num_unused:
            log.info("epoch %d: %d rows stand in no batch", position.epoch, items.planned[0].num_unused)
        # made anew for every iteration: a worker that lives on would never hear of a new epoch
        return DataLoader(
            items,
            batch_size=None,
            sampler=range(start + position.rank, stop, world),
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            timeout=WORKER_TIMEOUT_S if self.num_workers else 0,
            # DataLoader draws a base seed on every iteration: from its own generator, the global one stays untouched
            generator=generator(self.plan.seed, "workers", position.epoch),
        )

    def _account(self, item: Item) -> Batch | None:
        for sample in item.bad:
            if self.quarantine.add(sample.shard, sample.key, sample.reason, sample.record_id):
                log.warning("quarantined %s (%s): %s", sample.record_id, sample.shard, sample.reason)
        self.limits.note(item.usable, item.bad[-1].reason if item.bad else "")
        if item.spare is not None:
            log.warning("a batch lost all its samples; the plan's spare %s fills it", item.spare)
        return item.batch


def _numbers(names: Sequence[str]) -> Ints:
    """A number for each name, equal for equal names, in the order they first appear."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


def _stop_workers(items: Any) -> None:
    # left to the garbage collector (a traceback keeps the iterator), torch waits 5 s for a message that never comes
    if hasattr(items, "_shutdown_workers"):
        items._shutdown_workers()


def _unchanged(item: Any) -> Any:
    return item
