"""Two iterations of ISR-DPO on one rank or two, started by test_retrospection.py: WORLD FOLDER RANKS."""

import lit_vpo  # noqa: F401  isort: skip

import sys
from pathlib import Path

import torch
from lightning import Trainer

from lit_vpo.callbacks import LoRAMergeReinit
from lit_vpo.datamodules import Source


def main(world, folder, ranks):
    """Four prompts in batches of one, two pairs in each step."""
    from test_retrospection import make, make_data, resampler  # which imports this file

    torch.set_num_threads(1)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        **quiet,
        enable_checkpointing=False,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        use_distributed_sampler=False,
        accumulate_grad_batches=2 // ranks,
        default_root_dir=folder,
        max_epochs=-1,
        max_steps=2,
        callbacks=[LoRAMergeReinit(), resampler(context="other")],
    )
    data = make_data(world, candidates=Source(str(world), limit=4), batch_size=1)
    trainer.fit(make(), data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
