"""Data for preference training: prompts with a chosen and a rejected response."""

from typing import Any

from .base import VideoShardDataModule
from .collate import Collator
from .loader import ShardLoader
from .mix import Mix
from .reader import RecordReader
from .responses import Kind


class PreferenceDataModule(VideoShardDataModule):
    """Rows with ``prompt``, ``chosen`` and ``rejected``, and further ``negatives`` where a loss compares several.

    A negative is ``{text, media?}``; its ``media`` overrides fields of the record's, so that a text can be judged on a
    corrupted view of the video: ``{"text": the chosen one, "media": {"frame_order": [...]}}``. ``views`` does the same
    for the pair itself: ``{"rejected": {"frame_order": [...]}}``.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        with_ground_truth: Also make rows of ``ground_truth``, for losses with a term on it; every record needs one.
        num_negatives: Rejected responses of each record: ``rejected``, then the first of ``negatives``. A record with
            fewer is a bad sample; those beyond are not used.
        shuffle_labels: Train with chosen and rejected swapped in a random half of the rows, drawn by ``seed``: a
            control, which must gain nothing from the preferences. Evaluation keeps the labels.
        **kwargs: The other arguments of :class:`VideoShardDataModule`.

    """

    train_kind: Kind = "preference"

    # the command line follows **kwargs to the base's arguments and shows them all
    def __init__(
        self,
        model: str,
        with_ground_truth: bool = False,
        num_negatives: int = 1,
        shuffle_labels: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be >= 1, got {num_negatives}")
        if shuffle_labels and num_negatives > 1:
            raise ValueError(f"shuffle_labels swaps two responses; num_negatives must be 1, got {num_negatives}")
        self.with_ground_truth, self.num_negatives = with_ground_truth, num_negatives
        self.shuffle_labels = shuffle_labels

    def train_collator(self) -> Collator:
        """Collator of pairs, with ground-truth rows where asked for."""
        collator = super().train_collator()
        return Collator(collator.processor, "preference", self.with_ground_truth, self.num_negatives)

    def _over(self, reader: RecordReader, mix: Mix | None, collator: Collator, evaluation: bool) -> ShardLoader:
        shuffles = self.shuffle_labels and not evaluation
        return super()._over(reader.with_shuffled_labels(self.seed) if shuffles else reader, mix, collator, evaluation)
