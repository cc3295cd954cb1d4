"""Training data that change with the round: other pairs take the place of the last ones where a round ends."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from lit_vpo.batch import Batch

from .loader import ShardLoader
from .preference import PreferenceDataModule


class RoundLoader:
    """A loader whose rows can be replaced between two batches.

    Lightning sees an epoch end there: the batch after :meth:`switch` is the first of a new epoch over the new rows.

    Args:
        open_loader: Gives the loader of rows by their name (an overlay, a stage); None is that of the first round.

    """

    def __init__(self, open_loader: Callable[[str | None], ShardLoader]) -> None:
        self.open_loader = open_loader
        self.name: str | None = None
        self.loader = open_loader(None)
        self._switched = False

    def switch(self, name: str) -> None:
        """Go on with other rows, from their beginning.

        Args:
            name: Theirs; what it stands for must be there for as long as the run may be resumed.

        """
        self.name, self.loader, self._switched = name, self.open_loader(name), True

    def __len__(self) -> int:
        """Batches of this epoch on this rank."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        # not a generator itself: the loader must hear of the new epoch now, see Position
        self._switched = False
        return self._until_switched(iter(self.loader))

    def _until_switched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        if (
            self._switched
        ):  # before the first batch: where training starts, Lightning has asked for the iterator already
            batches, self._switched = iter(self.loader), False
        for batch in batches:
            yield batch
            if self._switched:
                return

    def state_dict(self) -> dict[str, Any]:
        """Which rows, and the position in them."""
        return {"overlay": self.name, **self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Open the rows of a saved position and jump to it.

        Raises:
            ValueError: As :meth:`ShardLoader.load_state_dict`, or the overlay is gone.

        """
        if state["overlay"] != self.name:
            self.name = state["overlay"]
            self.loader = self.open_loader(self.name)
        self.loader.load_state_dict(state)


class SwitchedDataModule(PreferenceDataModule):
    """Base of the data modules whose training pairs are replaced where a round ends.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        **kwargs: The other arguments of :class:`PreferenceDataModule`.

    """

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.round_loader: RoundLoader | None = None

    @property
    def train_loader(self) -> Any:
        """The loader whose position a checkpoint keeps; None before training."""
        return self.round_loader

    def train_dataloader(self) -> Any:
        """The training loader; it holds its round and its position."""
        if self.round_loader is None:
            self.round_loader = RoundLoader(self._open)
        if self._resume is not None:
            self.round_loader.load_state_dict(self._resume)
            self._resume = None
        return self.round_loader

    @abstractmethod
    def _open(self, name: str | None) -> ShardLoader:
        """The loader of rows by their name; None is that of the first round."""
