"""A run without a model that writes down the ids of every batch; started by tests and by `benchmarks/soak.py`.

    python resuming.py SHARDS OVERLAY FOLDER [--workers N] [--steps N] [--epochs N] [--pause S] [--stepping]

Every step appends `step ids` to `FOLDER/seen.RANK.txt`; a checkpoint is written after every second step, and a run that
finds one goes on from it.
"""

import lit_vpo  # noqa: F401  isort: skip

import argparse
import time
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.datamodules import InstructionDataModule, Source

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


class Keys(LightningModule):
    """Notes the ids of the batches it trains on (`seen`), and of those that make up each optimizer step (`steps`).

    Args:
        stop_at: Interrupt the run before this many batches more.
        stepping: Ask the trainer for the number of steps while optimizers are made, as schedules of other projects do.
        path: Also write the ids down, as they come.
        pause: Seconds of a step.

    """

    def __init__(self, stop_at=None, stepping=False, path=None, pause=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.stop_at, self.stepping, self.path, self.pause = [], stop_at, stepping, path, pause
        self.steps, self.windows, self.stepped, self.validated_after = [], [], 0, []
        self.noted, self.validated_at = [], []

    def training_step(self, batch, batch_idx):
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append([record["id"] for record in batch["records"]])
        loop = self.trainer.fit_loop.epoch_loop
        self.noted.append((loop.total_batch_idx, self.current_epoch, loop._batches_that_stepped))
        self.windows.append(next(iter(batch["window"].values())).sample)
        if self.path is not None:
            with open(f"{self.path}.{self.global_rank}.txt", "a") as file:
                file.write(f"{self.global_step} {','.join(self.seen[-1])}\n")
        time.sleep(self.pause)
        return self.weight.sum()

    def on_before_optimizer_step(self, optimizer):
        self.steps.append(self.seen[self.stepped :])
        self.stepped = len(self.seen)

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.validated_after.append(len(self.seen))
            self.validated_at.append(self.trainer.fit_loop.epoch_loop.total_batch_idx + 1)

    def configure_optimizers(self):
        if self.stepping:
            _ = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OneRank(InstructionDataModule):
    """The data of one of several ranks, in one process."""

    ranks = (0, 1)

    def _place(self, evaluation):
        return (0, 1) if evaluation else self.ranks


def data(shards, overlay, place=None, processor=None, **options):
    """A data module of small batches; `place` stands in for the trainer's rank and world."""
    kind = InstructionDataModule if place is None else OneRank
    options = {"num_frames": 2, "size": 16, "batch_size": 2} | options
    module = kind("tiny_llava_onevision", train=Source(str(shards), str(overlay)), **options)
    module.ranks, module.processor = place, processor
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("overlay")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--epochs", type=int, default=-1)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--stepping", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    saver = ModelCheckpoint(args.folder, every_n_train_steps=2, save_last=True, save_top_k=1)
    last = args.folder / "last.ckpt"
    trainer = Trainer(
        **QUIET,
        max_steps=args.steps,
        max_epochs=args.epochs,
        callbacks=[saver],
        default_root_dir=args.folder,
        devices=args.ranks,
        strategy="auto" if args.ranks == 1 else "ddp",
    )
    module = Keys(stepping=args.stepping, path=args.folder / "seen", pause=args.pause)
    source = data(args.shards, args.overlay, num_workers=args.workers)
    trainer.fit(module, source, ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    main()
