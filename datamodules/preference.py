"""Data for preference training: prompts with a chosen and a rejected response."""

from collections.abc import Callable
from typing import Any

from .base import VideoShardDataModule
from .clips import ClipReader
from .collate import Collator
from .loader import ShardLoader
from .mix import Mix
from .reader import RecordReader
from .responses import Kind
from .writers import check_writers


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
        blank_videos: Train on black frames: a control, which can learn from the texts alone (``check_video`` of the
            module must be off). Evaluation sees the videos.
        other_policy: Allow answers of another policy than the one that is trained (transfer, data of other people's
            runs that name their writer); by default they are refused, since DPO's pairs are the policy's own here.
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
        blank_videos: bool = False,
        other_policy: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be >= 1, got {num_negatives}")
        if shuffle_labels and num_negatives > 1:
            raise ValueError(f"shuffle_labels swaps two responses; num_negatives must be 1, got {num_negatives}")
        self.with_ground_truth, self.num_negatives = with_ground_truth, num_negatives
        self.shuffle_labels, self.blank_videos, self.other_policy = shuffle_labels, blank_videos, other_policy

    def check_writers(self, policy_hash: Callable[[], str]) -> str:
        """Refuse training pairs of another policy unless ``other_policy``; says whose they are.

        Args:
            policy_hash: Of the policy under training, as ``predict`` writes it.

        Raises:
            ValueError: Pairs name another policy as their writer.

        """
        return check_writers(self._train_rows(), policy_hash, self.other_policy)

    def train_collator(self) -> Collator:
        """Collator of pairs, with ground-truth rows where asked for."""
        collator = super().train_collator()
        return Collator(collator.processor, "preference", self.with_ground_truth, self.num_negatives)

    def _train_rows(self) -> list[dict[str, Any]]:
        return self.loaders["train"].reader.rows

    def _clip_reader(self, reader: RecordReader, evaluation: bool, blank: bool = False) -> ClipReader:
        return super()._clip_reader(reader, evaluation, blank or (self.blank_videos and not evaluation))

    def _over(
        self, reader: RecordReader, mix: Mix | None, collator: Collator, evaluation: bool, batch_size: int | None = None
    ) -> ShardLoader:
        shown = reader.with_shuffled_labels(self.seed) if self.shuffle_labels and not evaluation else reader
        return super()._over(shown, mix, collator, evaluation, batch_size)
