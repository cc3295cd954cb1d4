"""What the data modules share: sources, loaders, and the processor of the model that will read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningDataModule

from .collate import Collator
from .loader import OnBadSample, ShardLoader
from .manifest import Manifest
from .overlay import Overlay
from .reader import RecordReader
from .responses import Kind

# the sources of each stage of Lightning; training needs `train`, every other stage one of its own
STAGES = {
    "fit": ("train", "val", "val_prompts", "val_questions"),
    "validate": ("val", "val_prompts", "val_questions"),
    "test": ("test", "test_prompts", "test_questions"),
    "predict": ("predict",),
}


@dataclass(frozen=True)
class Source:
    """Where records come from.

    Attributes:
        shards: Folder with a manifest (shards, or loose videos indexed where they lie).
        overlay: JSONL of records keyed by sample; null takes each sample's own json.
        limit: Keep only the first rows.

    """

    shards: str
    overlay: str | None = None
    limit: int | None = None


class VideoShardDataModule(LightningDataModule):
    """Loaders over shards for one kind of training batch.

    Evaluation runs over a list of loaders: the main source, then greedy captions of ``*_prompts``, then option scoring
    of ``*_questions``; every batch says its ``kind``. Loaders of evaluation keep the rows' order; each rank sees all.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        train: Rows to train on.
        val: Rows to validate on.
        val_prompts: Rows to caption during validation; bound them with ``limit``.
        val_questions: Questions to score during validation.
        test: Rows to test on.
        test_prompts: Rows to caption during testing.
        test_questions: Questions to score during testing.
        predict: Rows whose prompts are answered by ``predict``.
        num_frames: Frames of every clip.
        size: Short side of the frames in pixels; null keeps the video's own.
        batch_size: Rows of a training batch.
        rows_per_video: Up to so many training rows of one video stand together, which are decoded and encoded once.
        eval_batch_size: Rows of a batch elsewhere; null takes ``batch_size``.
        num_workers: Processes that decode; 0 decodes in the main process.
        seed: Of the order of the training rows.
        on_bad_sample: ``quarantine`` notes an unusable sample and goes on, ``raise`` stops.
        quarantine: Folder for ``quarantine.jsonl``; null takes the run's folder (the trainer's ``default_root_dir``).

    Raises:
        ValueError: Numbers out of range. In ``setup``: no source for the stage, or one whose folder is not there.

    """

    train_kind: Kind = "instruction"

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
        rows_per_video: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        on_bad_sample: OnBadSample = "quarantine",
        quarantine: str | None = None,
    ) -> None:
        super().__init__()
        numbers = {"num_frames": num_frames, "size": size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        numbers["rows_per_video"] = rows_per_video
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {num_workers}")
        if on_bad_sample not in ("quarantine", "raise"):
            raise ValueError(f"on_bad_sample must be 'quarantine' or 'raise', got {on_bad_sample!r}")
        self.model = model
        self.sources: dict[str, Source | None] = {
            "train": train,
            "val": val,
            "val_prompts": val_prompts,
            "val_questions": val_questions,
            "test": test,
            "test_prompts": test_prompts,
            "test_questions": test_questions,
            "predict": predict,
        }
        self.num_frames, self.size = num_frames, size
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.rows_per_video = rows_per_video
        self.num_workers, self.seed = num_workers, seed
        self.on_bad_sample, self.quarantine = on_bad_sample, quarantine
        self.processor: Any = None
        self.loaders: dict[str, ShardLoader] = {}

    @property
    def train_loader(self) -> ShardLoader | None:
        """The loader whose position a checkpoint keeps; None before training."""
        return self.loaders.get("train")

    @property
    def num_quarantined(self) -> int:
        """Samples that all loaders so far, of training and evaluation, found unusable."""
        return sum(loader.num_quarantined for loader in self.loaders.values())

    def setup(self, stage: str) -> None:
        """Check the sources that the stage reads, and load the model's processor, once.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``; what only another stage reads may be absent.

        Raises:
            ValueError: No source for the stage, or one whose folder is not there.

        """
        _check_sources({name: self.sources[name] for name in STAGES[stage]}, stage)
        self._load_processor()

    def train_dataloader(self) -> ShardLoader:
        """The training loader; it holds its position."""
        return self._loader("train", self.train_collator(), evaluation=False)

    def val_dataloader(self) -> list[ShardLoader]:
        """Main source, captions, questions: those that are given."""
        return self._evaluation("val")

    def test_dataloader(self) -> list[ShardLoader]:
        """The same as for validation, over the test sources."""
        return self._evaluation("test")

    def predict_dataloader(self) -> ShardLoader:
        """Prompts to answer."""
        return self._loader("predict", self._collator("prompt"), evaluation=True)

    def train_collator(self) -> Collator:
        """Collator of training batches and of the main evaluation source."""
        return self._collator(self.train_kind)

    def _collator(self, kind: Kind) -> Collator:
        self._load_processor()
        return Collator(self.processor, kind)

    def _load_processor(self) -> None:
        if self.processor is None:
            from lit_vpo.models.loading import load_processor

            self.processor = load_processor(self.model)

    def _evaluation(self, stage: str) -> list[ShardLoader]:
        collators = {
            stage: self.train_collator,
            f"{stage}_prompts": self._prompts,
            f"{stage}_questions": self._questions,
        }
        return [
            self._loader(name, collator(), evaluation=True)
            for name, collator in collators.items()
            if self.sources[name] is not None
        ]

    def _prompts(self) -> Collator:
        return self._collator("prompt")

    def _questions(self) -> Collator:
        return self._collator("question")

    def _loader(self, name: str, collator: Collator, evaluation: bool) -> ShardLoader:
        source = self.sources[name]
        if source is None:
            raise ValueError(f"data.{name} is not set; give it as {name}: {{shards: FOLDER}}")
        if name not in self.loaders or not evaluation:
            self.loaders[name] = self._make_loader(source, collator, evaluation)
        return self.loaders[name]

    def _make_loader(self, source: Source, collator: Collator, evaluation: bool) -> ShardLoader:
        overlay = Overlay.load(source.overlay) if source.overlay else None
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None or evaluation else (trainer.global_rank, trainer.world_size)
        return ShardLoader(
            RecordReader(Manifest.load(source.shards), overlay, source.limit),
            collator,
            batch_size=self.eval_batch_size if evaluation else self.batch_size,
            num_frames=self.num_frames,
            size=self.size,
            seed=self.seed,
            shuffle=not evaluation,
            num_workers=self.num_workers,
            evaluation=evaluation,
            on_bad_sample=self.on_bad_sample,
            quarantine=self.quarantine or (trainer.default_root_dir if trainer is not None else None),
            rank=rank,
            world=world,
            accumulate=1 if trainer is None else trainer.accumulate_grad_batches,
            rows_per_video=1 if evaluation else self.rows_per_video,
        )


def _check_sources(sources: dict[str, Source | None], stage: str) -> None:
    needed = ["train"] if stage == "fit" else list(sources)
    if all(sources[name] is None for name in needed):
        names = " or ".join(f"data.{name}" for name in needed)
        raise ValueError(f"{stage} needs {names}; give it as {needed[0]}: {{shards: FOLDER}}")
    for name, source in sources.items():
        if source is not None and not Path(source.shards).is_dir():
            raise ValueError(
                f"data.{name}.shards: {source.shards} is not a folder; "
                "give the folder of the shards, or make them with: python -m lit_vpo data pack"
            )
