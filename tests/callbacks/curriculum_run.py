"""A curriculum on one rank or two, started by test_curriculum.py: python curriculum_run.py RANKS WORLD OVERLAY OUT."""

import sys

import lit_vpo  # noqa: F401  isort: skip

import json
from collections import defaultdict

import torch
from lightning import Trainer

from lit_vpo.callbacks import CurriculumScheduler, LoRAMergeReinit
from lit_vpo.datamodules import CurriculumDataModule, Source
from lit_vpo.lora import LoRASettings
from lit_vpo.modules import DPOModule

NAME = "tiny_qwen2_5_vl"


def rows_of(world, counts, kinds):
    """So many pairs of each divisor, their kinds of perturbation in turn; ids end in a number."""
    pairs = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    divisors = [r for r, count in counts.items() for _ in range(count)]
    return [
        pairs[n % len(pairs)] | {"id": f"pair-{n}", "r": r, "perturbation": {"kind": kinds[n % len(kinds)], "r": r}}
        for n, r in enumerate(divisors)
    ]


def make_data(world, **more):
    return CurriculumDataModule(NAME, **{"num_frames": 2, "size": 32, "world_multiple": 1} | more)


def make_trainer(folder, callbacks, **more):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": any("Checkpoint" in type(callback).__name__ for callback in callbacks)}
    quiet |= {"default_root_dir": folder, "max_epochs": -1, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return Trainer(**quiet | {"devices": 1} | more, callbacks=list(callbacks))


class Noting(DPOModule):
    """Notes the pairs of every step, and what is logged of them."""

    def training_step(self, batch, batch_idx):
        self.seen[self.trainer.global_step] += [record["id"] for record in batch["records"]]
        return super().training_step(batch, batch_idx)

    def log_dict(self, values, **more):
        if "curriculum/difficulty" in values:
            self.shares.append({name: float(value) for name, value in values.items() if name.endswith("share")})
            self.means += [value for name, value in sorted(values.items()) if name.endswith("margins")]
        super().log_dict(values, **more)


def main(ranks, world, overlay, out):
    """Five steps of two pairs each in three stages; rank 0 writes what was learnt."""
    torch.set_num_threads(1)
    module = Noting(
        NAME,
        lora=LoRASettings(r=4, alpha=8),
        check_video=False,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05),
    )
    module.seen, module.shares, module.means = defaultdict(list), [], []
    more = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto", "use_distributed_sampler": False}
    callbacks = [CurriculumScheduler(divisors=[16, 4, 2]), LoRAMergeReinit()]
    trainer = make_trainer(None, callbacks, max_steps=-1, accumulate_grad_batches=2 // ranks, **more)
    trainer.fit(module, make_data(world, train=Source(world, overlay), batch_size=1))
    seen, hashes = [module.seen], [module.reference_hash()]
    if ranks > 1:
        seen, hashes = [None] * ranks, [None] * ranks
        torch.distributed.all_gather_object(seen, module.seen)
        torch.distributed.all_gather_object(hashes, module.reference_hash())
    if trainer.is_global_zero:
        steps = [[pair for one in seen for pair in one[step]] for step in range(trainer.global_step)]
        logged = {"shares": module.shares, "margins": module.means}
        weights = dict(module.net.state_dict())
        torch.save({"weights": weights, "hashes": hashes, "round": module.round, "seen": steps, "logged": logged}, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
