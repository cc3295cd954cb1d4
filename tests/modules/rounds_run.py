"""A run in rounds on one rank or two, started by test_rounds.py: python rounds_run.py WORLD OUT."""

import sys

import lit_vpo  # noqa: F401  isort: skip

import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from lit_vpo.callbacks import LoRAMergeReinit
from lit_vpo.datamodules import Clip, Collator
from lit_vpo.lora import LoRASettings
from lit_vpo.models import load_processor
from lit_vpo.modules import DPOModule

NAME = "tiny_qwen2_5_vl"


def batch(number):
    """One pair, the same on every rank that asks for it."""
    frames = torch.randint(0, 256, (4, 3, 60, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    record = {
        "id": f"{number}",
        "key": f"{number}",
        "prompt": "What moves?",
        "chosen": "a star",
        "rejected": "a blue ball",
    }
    return Collator(load_processor(NAME), "preference")([(record, Clip(frames, [0.0, 0.5, 1.0, 1.5], 2.0))])


def main(world, out):
    """Six steps of two pairs each, in rounds of two steps; rank 0 writes what was learnt."""
    torch.set_num_threads(1)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(
        **quiet,
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,
        accumulate_grad_batches=2 // world,
        max_steps=6,
        callbacks=[LoRAMergeReinit()],
    )
    module = DPOModule(
        NAME,
        lora=LoRASettings(r=4, alpha=8),
        round_steps=2,
        check_video=False,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05),
    )
    trainer.fit(module, DataLoader([batch(n) for n in range(trainer.global_rank, 12, world)], batch_size=None))
    hashes = [module.reference_hash()]
    if world > 1:
        hashes = [None] * world
        torch.distributed.all_gather_object(hashes, module.reference_hash())
    if trainer.is_global_zero:
        weights = {name: tensor for name, tensor in module.net.state_dict().items()}
        torch.save({"weights": weights, "hashes": hashes, "round": module.round}, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
