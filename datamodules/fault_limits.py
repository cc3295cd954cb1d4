"""When unusable samples stop a run: too many one after the other, or too large a part of an epoch."""

from collections.abc import Sequence

from .quarantine import BadSample


class FaultLimits:
    """Counts the samples of an epoch as they come, and stops where too many cannot be used.

    A sample counts each time it is met, so that a folder that goes away in the middle of a run is noticed.

    Args:
        max_in_a_row: Unusable samples one after the other that go by; one more stops the run.
        max_fraction: The same as a part of the epoch's samples, on this rank.

    Raises:
        ValueError: Numbers out of range.

    """

    def __init__(self, max_in_a_row: int = 100, max_fraction: float = 0.5) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_bad_in_a_row must be >= 1, got {max_in_a_row}")
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"max_bad_fraction must lie in 0..1, got {max_fraction}")
        self.max_in_a_row, self.max_fraction = max_in_a_row, max_fraction
        self._in_a_row, self._bad, self._allowed = 0, 0, 0.0

    def begin(self, num_samples: float) -> None:
        """Start an epoch of so many samples."""
        self._bad, self._allowed = 0, self.max_fraction * num_samples

    def note(self, usable: Sequence[bool], last_reason: str) -> None:
        """Count samples in the order they were read.

        Args:
            usable: Whether each of them was.
            last_reason: Why the last unusable one was not, for the message.

        Raises:
            BadSample: A limit is passed.

        """
        for good in usable:
            self._in_a_row = 0 if good else self._in_a_row + 1
            self._bad += not good
            if self._in_a_row > self.max_in_a_row:
                self._stop(f"{self._in_a_row} samples in a row", "max_bad_in_a_row", last_reason)
            if self._bad > self._allowed:
                self._stop(f"{self._bad} samples of this epoch", "max_bad_fraction", last_reason)

    def _stop(self, what: str, name: str, reason: str) -> None:
        raise BadSample(
            f"{what} cannot be used, more than {name} allows; the last one: {reason}. All stand in quarantine.jsonl: "
            f"mend the data, or raise {name}"
        )
