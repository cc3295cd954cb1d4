"""What a loader has to do with Lightning: counts of batches, kept equal, and ranks, which must see the same data."""

from collections.abc import Mapping
from typing import Any

from lightning import Trainer


class TrainingLoop:
    """The trainer's loop over training batches, as a loader sees it.

    Lightning restores its own counts from a checkpoint, but loses them in a second resume after one from an epoch's
    end, and cannot know that other ranks give an epoch another length. Optimizer steps, validation and `max_epochs`
    would then fall elsewhere. So an iteration tells it, before its first batch.

    Args:
        trainer: Whose loop; it was tried with lightning 2.6.

    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @property
    def trained(self) -> int:
        """Batches of this epoch that have been trained on; the one in work is not among them."""
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        return int(batches.current.processed)

    def check_settings(self) -> None:
        """Refuse what would show other batches than the plan's.

        Raises:
            ValueError: The trainer reloads loaders, or ends epochs before their end.

        """
        trainer: Any = self.trainer
        if trainer.reload_dataloaders_every_n_epochs:
            raise ValueError(
                "trainer.reload_dataloaders_every_n_epochs would begin every epoch with the order of the first; leave "
                "it out, the loader draws a new order for each epoch by itself"
            )
        if (trainer.limit_train_batches != 1.0 or trainer.overfit_batches) and not trainer.fast_dev_run:
            raise ValueError(
                "trainer.limit_train_batches and overfit_batches would end an epoch where the plan goes on; bound the "
                "rows with data.train.limit, or the run with trainer.max_steps (and trainer.val_check_interval)"
            )

    def begin(self, done: int, length: int) -> None:
        """Set counts and length where an iteration begins.

        Args:
            done: Batches of this epoch that have been trained on.
            length: Batches of this epoch, with those.

        """
        loop = self.trainer.fit_loop
        batches: Any = loop.epoch_loop.batch_progress
        epochs: Any = loop.epoch_progress
        again = max(batches.current.processed - done, 0)  # of an optimizer step that was not taken
        total = batches.total.processed - again
        _set(batches.current, done, done)
        _set(batches.total, total, total)
        for count in (epochs.current, epochs.total):
            _set(count, count.processed + 1, count.processed)
        if loop._data_fetcher is not None:
            loop._data_fetcher.fetched = done
        loop.epoch_loop._batches_that_stepped = loop.epoch_loop.global_step  # what loggers call the step
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._set_length(length)

    def check_ranks_agree(self, identity: Mapping[str, Any]) -> None:
        """Compare what makes the plan of this rank with that of rank 0.

        Raises:
            ValueError: They differ, so that ranks would train on different batches; names what differs.

        """
        first = self.trainer.strategy.broadcast(dict(identity))
        for name, value in identity.items():
            if value != first[name]:
                raise ValueError(
                    f"rank {self.trainer.global_rank} has {name} {value!r}, rank 0 has {first[name]!r}; every rank "
                    "needs the same shards and overlays, all of them readable (see the log for what could not be read)"
                )

    def _set_length(self, length: int) -> None:
        loop = self.trainer.fit_loop
        interval = getattr(self.trainer, "val_check_interval", None)  # there is none where it is a time
        loop.max_batches = length
        if loop._data_fetcher is not None:
            loop._data_fetcher.length = length
        if loop._combined_loader is not None:
            loop._combined_loader.limits = None  # those of the first epoch would cut a longer one
        if isinstance(interval, float):
            self.trainer.val_check_batch = max(1, int(length * interval))


def _set(count: Any, begun: int, ended: int) -> None:
    """So many have begun, and so many of them have ended."""
    count.ready = count.started = begun
    count.processed = count.completed = ended
