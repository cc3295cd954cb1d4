"""A run of three rounds that merges and samples new pairs; started by `benchmarks/soak_rounds.py`.

    python resampling_run.py WORLD FOLDER [--pause S]

Every call of what a kill may interrupt appends its phase to `FOLDER/phases.txt`: `train` (a batch), `sample`
(candidates of a batch), `judge`, `merge`, and `write` (an overlay or a checkpoint whose bytes are there under another
name). A checkpoint is written after every step, and a run that finds one goes on from it.
"""

import lit_vpo  # noqa: F401  isort: skip

import argparse
import functools
import os
import time
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resample import make, make_data, resampler

from lit_vpo.callbacks import LoRAMergeReinit
from lit_vpo.checkpoint_io import AtomicCheckpointIO
from lit_vpo.ledger import Ledger
from lit_vpo.modules import DPOModule
from lit_vpo.preferences.judges import ExactJudge

PHASES = {
    "train": (DPOModule, "training_step"),
    "sample": (DPOModule, "candidates"),
    "judge": (ExactJudge, "score"),
    "merge": (Ledger, "retire"),
    "write": (os, "fsync"),
}


def watch(path, pause):
    """Say when a phase begins, and leave some time before and after it for a kill to fall into."""
    for name, (owner, method) in PHASES.items():
        setattr(owner, method, watched(getattr(owner, method), name, path, pause))


def watched(original, name, path, pause):
    @functools.wraps(original)
    def slow(*args, **kwargs):
        with path.open("a") as file:
            file.write(f"{name}\n")
        time.sleep(pause)
        result = original(*args, **kwargs)
        time.sleep(pause)
        return result

    return slow


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    watch(args.folder / "phases.txt", args.pause)
    saver = ModelCheckpoint(args.folder, every_n_train_steps=1, save_last=True, save_top_k=1)
    last = args.folder / "last.ckpt"
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(
        **quiet,
        default_root_dir=args.folder,
        max_epochs=-1,
        max_steps=6,
        accumulate_grad_batches=2,
        plugins=[AtomicCheckpointIO()],
        callbacks=[LoRAMergeReinit(), resampler(), saver],
    )
    trainer.fit(make(), make_data(args.world), ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    main()
