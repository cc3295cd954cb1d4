"""Data for preference training: prompts with a chosen and a rejected response."""

from .base import Source, VideoShardDataModule
from .collate import Collator, Kind
from .loader import OnBadSample


class PreferenceDataModule(VideoShardDataModule):
    """Rows with ``prompt``, ``chosen`` and ``rejected``.

    Args:
        with_ground_truth: Also make rows of ``ground_truth``, for losses with a term on it; every record needs one.

    The other arguments are those of :class:`VideoShardDataModule`.

    """

    train_kind: Kind = "preference"

    def __init__(
        self,
        model: str,
        train: Source | None = None,
        val: Source | None = None,
        val_prompts: Source | None = None,
        val_questions: Source | None = None,
        test: Source | None = None,
        test_prompts: Source | None = None,
        test_questions: Source | None = None,
        predict: Source | None = None,
        num_frames: int = 16,
        size: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        on_bad_sample: OnBadSample = "quarantine",
        quarantine: str | None = None,
        with_ground_truth: bool = False,
    ) -> None:
        super().__init__(
            model,
            train=train,
            val=val,
            val_prompts=val_prompts,
            val_questions=val_questions,
            test=test,
            test_prompts=test_prompts,
            test_questions=test_questions,
            predict=predict,
            num_frames=num_frames,
            size=size,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            on_bad_sample=on_bad_sample,
            quarantine=quarantine,
        )
        self.with_ground_truth = with_ground_truth

    def train_collator(self) -> Collator:
        """Collator of pairs, with ground-truth rows where asked for."""
        collator = super().train_collator()
        return Collator(collator.processor, "preference", self.with_ground_truth)
