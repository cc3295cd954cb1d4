"""What the data modules share: sources, loaders, and the processor of the model that will read them."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from .annotations import annotation_overlay
from .clips import ClipReader
from .collate import Collator
from .fault_limits import FaultLimits
from .frame_cache import FrameCache
from .frames import Backend, check_backend
from .items import OnBadSample
from .loader import ShardLoader
from .manifest import Manifest
from .mix import Mix
from .reader import RecordReader
from .responses import Kind
from .sampling import Sampling, as_sampling
from .sources import STAGES, Source, check_sources
from .training_loop import TrainingLoop


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
        predict_questions: Questions whose options ``predict`` scores, in place of ``predict``.
        num_frames: Frames of every clip.
        size: Short side of the frames in pixels; null keeps the video's own.
        sampling: Which frames to look at: a class of ``lit_vpo.datamodules.sampling``, or the name of a rule there;
            null takes ``num_frames`` uniform ones.
        frame_cache: Folder that keeps resized frames for the next epochs and rounds; null decodes them anew.
        frame_cache_gb: Size of that folder at most, in 10^9 bytes.
        media_root: Folder that the paths in annotation files begin with and that the source's folder stands for.
        backend: Who decodes frames: ``pyav``, or ``torchcodec`` where it is installed.
        batch_size: Rows of a training batch.
        tokens_per_batch: Fill a training batch with rows up to so many tokens (each video once, prompt, all responses),
            whatever ``batch_size`` says; null counts rows.
        rows_per_video: Up to so many training rows of one video stand together, which are decoded and encoded once.
        eval_batch_size: Rows of a batch elsewhere; null takes ``batch_size``.
        num_workers: Processes that decode; 0 decodes in the main process.
        seed: Of the order of the training rows.
        shuffle_window: Training rows that are shuffled among each other, after shards were; few shards are then in use
            at a time.
        world_multiple: Batches of a training epoch are a multiple of it, so that every number of ranks that divides it
            sees the same ones; the largest are halved to get there.
        on_bad_sample: ``quarantine`` notes an unusable sample and goes on, ``raise`` stops.
        max_bad_in_a_row: So many unusable samples one after the other go by; one more stops the run.
        max_bad_fraction: The same as a part of an epoch's samples.
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
        predict_questions: Source | None = None,
        num_frames: int = 16,
        size: int | None = None,
        sampling: Sampling | str | None = None,
        frame_cache: str | None = None,
        frame_cache_gb: float = 50.0,
        media_root: str | None = None,
        backend: Backend = "pyav",
        batch_size: int = 8,
        tokens_per_batch: int | None = None,
        rows_per_video: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_window: int = 10_000,
        world_multiple: int = 8,
        on_bad_sample: OnBadSample = "quarantine",
        max_bad_in_a_row: int = 100,
        max_bad_fraction: float = 0.5,
        quarantine: str | None = None,
    ) -> None:
        super().__init__()
        numbers = {"num_frames": num_frames, "size": size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        numbers |= {"rows_per_video": rows_per_video, "tokens_per_batch": tokens_per_batch}
        numbers |= {"shuffle_window": shuffle_window, "world_multiple": world_multiple}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {num_workers}")
        if on_bad_sample not in ("quarantine", "raise"):
            raise ValueError(f"on_bad_sample must be 'quarantine' or 'raise', got {on_bad_sample!r}")
        FaultLimits(max_bad_in_a_row, max_bad_fraction)  # refuses wrong numbers now, not when a loader is made
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
            "predict_questions": predict_questions,
        }
        check_backend(backend)
        self.num_frames, self.size, self.backend = num_frames, size, backend
        self.sampling, self.media_root = as_sampling(num_frames if sampling is None else sampling), media_root
        self.frame_cache = None if frame_cache is None else FrameCache(frame_cache, frame_cache_gb)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.plan_options: dict[str, Any] = {
            "rows_per_video": rows_per_video,
            "tokens_per_batch": tokens_per_batch,
            "shuffle_window": shuffle_window,
            "world_multiple": world_multiple,
        }
        self.max_bad_in_a_row, self.max_bad_fraction = max_bad_in_a_row, max_bad_fraction
        self.num_workers, self.seed = num_workers, seed
        self.on_bad_sample, self.quarantine = on_bad_sample, quarantine
        self.processor: Any = None
        self.loaders: dict[str, ShardLoader] = {}
        self._resume: dict[str, Any] | None = None

    @property
    def train_loader(self) -> ShardLoader | None:
        """The loader whose position a checkpoint keeps; None before training."""
        return self.loaders.get("train")

    @property
    def num_quarantined(self) -> int:
        """Samples that all loaders so far, of training and evaluation, found unusable."""
        return sum(loader.num_quarantined for loader in self.loaders.values())

    @property
    def quarantine_counts(self) -> Counter[str]:
        """The same, by the short name of their reason."""
        return sum((loader.quarantine.counts() for loader in self.loaders.values()), Counter[str]())

    def state_dict(self) -> dict[str, Any]:
        """Position of the training loader.

        Lightning saves the loader's state too, but does not load it again where ``configure_optimizers`` has read
        ``trainer.estimated_stepping_batches`` (Lightning-AI/pytorch-lightning#20550); this one it always loads.
        """
        return {} if self.train_loader is None else {"train": self.train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the position for the training loader, which Lightning asks for later (or, if sharded, has asked for)."""
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return  # `validate --ckpt_path` must not move a later fit
        self._resume = state.get("train")
        if self._resume is not None and self.train_loader is not None:
            self.train_loader.load_state_dict(self._resume)

    def setup(self, stage: str) -> None:
        """Check the sources that the stage reads, and load the model's processor, once.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``; what only another stage reads may be absent.

        Raises:
            ValueError: No source for the stage, or one whose folder is not there.

        """
        check_sources({name: self.sources[name] for name in STAGES[stage]}, stage)
        if stage == "fit" and self.trainer is not None:
            TrainingLoop(self.trainer).check_settings()
        self._load_processor()

    def train_dataloader(self) -> ShardLoader:
        """The training loader; it holds its position."""
        loader = self._loader("train", self.train_collator(), evaluation=False)
        if self._resume is not None:
            loader.load_state_dict(self._resume)
            self._resume = None
        return loader

    def val_dataloader(self) -> list[ShardLoader]:
        """Main source, captions, questions: those that are given."""
        return self._evaluation("val")

    def test_dataloader(self) -> list[ShardLoader]:
        """The same as for validation, over the test sources."""
        return self._evaluation("test")

    def predict_dataloader(self) -> ShardLoader:
        """Prompts to answer, or questions to score."""
        if self.sources["predict_questions"] is not None:
            return self._loader("predict_questions", self._collator("question"), evaluation=True)
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
        collators: dict[str, Callable[[], Collator]] = {
            stage: self.train_collator,
            f"{stage}_prompts": partial(self._collator, "prompt"),
            f"{stage}_questions": partial(self._collator, "question"),
        }
        return [
            self._loader(name, collator(), evaluation=True)
            for name, collator in collators.items()
            if self.sources[name] is not None
        ]

    def _loader(self, name: str, collator: Collator, evaluation: bool) -> ShardLoader:
        source = self.sources[name]
        if source is None:
            raise ValueError(f"data.{name} is not set; give it as {name}: {{shards: FOLDER}}")
        if name not in self.loaders or not evaluation:
            self.loaders[name] = self._make_loader(source, collator, evaluation)
        return self.loaders[name]

    def _read(self, source: Source) -> tuple[RecordReader, Mix | None]:
        """The rows of a source, and the mix that they come from."""
        mix = None if source.overlay is None else Mix.load(source.overlay)
        manifest = Manifest.load(source.shards, remote=source.store is not None)
        overlay = None if mix is None else mix.overlay
        if source.annotations is not None:
            overlay = annotation_overlay(source.annotations, manifest, self.media_root)
        return RecordReader(manifest, overlay, source.limit, source.store), mix

    def _make_loader(self, source: Source, collator: Collator, evaluation: bool) -> ShardLoader:
        reader, mix = self._read(source)
        return self._over(reader, mix, collator, evaluation)

    def _over(
        self, reader: RecordReader, mix: Mix | None, collator: Collator, evaluation: bool, batch_size: int | None = None
    ) -> ShardLoader:
        trainer = self.trainer
        rank, world = self._place(evaluation)
        return ShardLoader(
            reader,
            collator,
            batch_size=batch_size or (self.eval_batch_size if evaluation else self.batch_size),
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
            weights=() if mix is None else mix.weights,
            origins=None if mix is None or not mix.weights else mix.origins(reader),
            max_bad_in_a_row=self.max_bad_in_a_row,
            max_bad_fraction=self.max_bad_fraction,
            loop=None if trainer is None else TrainingLoop(trainer),
            clip_reader=self._clip_reader(reader, evaluation),
            **({} if evaluation else self.plan_options),
        )

    def _clip_reader(self, reader: RecordReader, evaluation: bool, blank: bool = False) -> ClipReader:
        return ClipReader(reader, self.sampling, self.size, self.frame_cache, self.backend, blank=blank)

    def _place(self, evaluation: bool) -> tuple[int, int]:
        """Rank and number of ranks; evaluation shows everything to each of them."""
        trainer = self.trainer
        return (0, 1) if trainer is None or evaluation else (trainer.global_rank, trainer.world_size)
