"""Data for preference training: prompts with a chosen and a rejected response."""

from typing import Any

from .base import VideoShardDataModule
from .collate import Collator, Kind


class PreferenceDataModule(VideoShardDataModule):
    """Rows with ``prompt``, ``chosen`` and ``rejected``.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        with_ground_truth: Also make rows of ``ground_truth``, for losses with a term on it; every record needs one.
        **kwargs: The other arguments of :class:`VideoShardDataModule`.

    """

    train_kind: Kind = "preference"

    # the command line follows **kwargs to the base's arguments and shows them all
    def __init__(self, model: str, with_ground_truth: bool = False, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.with_ground_truth = with_ground_truth

    def train_collator(self) -> Collator:
        """Collator of pairs, with ground-truth rows where asked for."""
        collator = super().train_collator()
        return Collator(collator.processor, "preference", self.with_ground_truth)
