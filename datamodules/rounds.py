"""Training data that change with the round: new pairs take the old ones' place where a round ends."""

from collections.abc import Callable, Iterator
from typing import Any

from lit_vpo.batch import Batch

from .loader import ShardLoader


class RoundLoader:
    """A loader whose overlay can be replaced between two batches.

    Lightning sees an epoch end there: the batch after :meth:`switch` is the first of a new epoch over the new rows.

    Args:
        open_loader: Makes the loader of an overlay; None is the configured one.

    """

    def __init__(self, open_loader: Callable[[str | None], ShardLoader]) -> None:
        self.open_loader = open_loader
        self.path: str | None = None
        self.loader = open_loader(None)
        self._switched = False

    def switch(self, path: str) -> None:
        """Go on with the rows of another overlay, from its beginning.

        Args:
            path: The overlay; it must be there for as long as the run may be resumed.

        """
        self.path, self.loader, self._switched = path, self.open_loader(path), True

    def __len__(self) -> int:
        """Batches of this epoch on this rank."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        # not a generator itself: the loader must hear of the new epoch now, see Position
        return self._until_switched(iter(self.loader))

    def _until_switched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        self._switched = False
        for batch in batches:
            yield batch
            if self._switched:
                return

    def state_dict(self) -> dict[str, Any]:
        """Which overlay, and the position in it."""
        return {"overlay": self.path, **self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Open the overlay of a saved position and jump to it.

        Raises:
            ValueError: As :meth:`ShardLoader.load_state_dict`, or the overlay is gone.

        """
        if state["overlay"] != self.path:
            self.path = state["overlay"]
            self.loader = self.open_loader(self.path)
        self.loader.load_state_dict(state)
