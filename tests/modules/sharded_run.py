"""Runs in rounds, sharded or not; as a script, under torchrun, what test_sharded.py asks of two ranks."""

import pathlib
import sys

import lit_vpo  # noqa: F401  isort: skip

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from lit_vpo.callbacks import CaptionScores, LoRAMergeReinit, MemoryReport, ReferenceRefresh, SavePretrained
from lit_vpo.datamodules import Clip, Collator
from lit_vpo.lora import LoRASettings
from lit_vpo.losses import DPOLoss
from lit_vpo.models import load_processor, weights_hash
from lit_vpo.modules import DPOModule, TowerModule
from lit_vpo.sharded_strategy import ShardedStrategy
from lit_vpo.sharding import full

NAME = "tiny_qwen2_5_vl"
STEPS, ACCUMULATE, CUT, BOUNDARY = 6, 2, 3, 4  # rounds of two steps: cut within one, and where one has ended
LOGGED = ("loss/dpo", "rewards/margins", "grad_norm")
CASES = {  # reference, tuning, what a round's end brings, more settings
    "merge": ("adapter_off", "lora", LoRAMergeReinit, {"gradient_checkpointing": True}),
    "mix": ("second_adapter", "lora", lambda: ReferenceRefresh(0.5), {}),
    "full": ("frozen_copy", "full", lambda: ReferenceRefresh(0.5), {}),
}


def batch(numbers, kind="preference"):
    """Pairs; with two ranks each has one of those that one rank has in a batch."""
    examples = []
    for number in numbers:
        rng = torch.Generator().manual_seed(number)
        frames = torch.randint(0, 256, (4, 3, 60, 60), dtype=torch.uint8, generator=rng)
        record = {"id": f"{number}", "key": f"{number}", "prompt": "What moves?"}
        record |= {"chosen": "a star", "rejected": f"a blue ball, {number}"}
        # of the first two pairs one has no video: of two ranks one encodes nothing
        examples.append((record, Clip(frames, [0.0, 0.5, 1.0, 1.5], 2.0) if number != 1 else None))
    return Collator(load_processor(NAME), kind)(examples)


def batches(rank, world, start=0):
    """All of a run's batches, those from step `start` on first, because a resumed Lightning counts what is done."""
    numbers = range(STEPS * ACCUMULATE)
    made = [batch(range(2 * n + rank, 2 * n + 2, world)) for n in numbers]
    return made[ACCUMULATE * start :] + made[: ACCUMULATE * start]


class Logged(Callback):
    """What every optimizer step logged."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % ACCUMULATE == 0:
            self.steps.append([float(trainer.callback_metrics[name]) for name in LOGGED])


def module_of(case, **more):
    reference, tuning, _, settings = CASES[case]
    return DPOModule(
        NAME,
        tuning=tuning,
        lora=LoRASettings(r=3, alpha=6) if tuning == "lora" else None,  # 3 rows on two ranks: uneven shards
        reference=reference,
        round_steps=2,
        warmup_steps=1,
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2, eps=1e-2),  # so large that rounding stays small
        **settings | more,
    )


def trainer_of(**more):
    settings = {
        "enable_progress_bar": False,
        "logger": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "devices": 1,
        "use_distributed_sampler": False,
    }
    return Trainer(**settings | more)


def run(case, folder, world=1, resume=None, start=0, **more):
    """Train a case to its end; what it learned, whole, and what it logged."""
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    logged = Logged()
    trainer = trainer_of(
        devices=world,
        strategy=ShardedStrategy() if world > 1 else "auto",
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=0.5,
        max_steps=STEPS,
        max_epochs=-1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
        callbacks=[CASES[case][2](), saver, logged, MemoryReport()],
    )
    module = module_of(case, **more)
    trainer.fit(module, DataLoader(batches(trainer.global_rank, world, start), batch_size=None), ckpt_path=resume)
    hashes = [weights_hash(module.net), module.reference_hash()]
    return {
        "weights": {name: full(tensor).clone() for name, tensor in module.net.named_parameters()},
        "reference": module.reference.state(module.net),
        "ledger": module.ledger.state() if module.ledger is not None else [],
        "logged": logged.steps,
        "hashes": hashes,
    }


def refusals(folder):
    """What each setting that cannot run on shards is told."""
    adapter, whole = (lambda **more: module_of("merge", **more)), (lambda **more: module_of("full", **more))
    tower = TowerModule(NAME, {"task": 2})
    plain = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    prompts = DataLoader([batch([0], "prompt")], batch_size=None)
    learned = DPOLoss()
    learned.shift = torch.nn.Parameter(torch.zeros(()))
    tries = {
        "plain": (lambda: adapter(), "fit", {"strategy": plain}),
        "cache": (lambda: adapter(reference_cache=str(folder / "logps")), "fit", {}),
        "loss": (lambda: adapter(loss=learned), "fit", {}),
        "scores": (lambda: adapter(), "fit", {"callbacks": [CaptionScores(len)]}),
        "saves": (lambda: whole(), "fit", {"callbacks": [SavePretrained(str(folder / "saved"))]}),
        "tower": (lambda: tower, "fit", {}),
        "predict": (lambda: adapter(), "predict", {}),
        "prompts": (lambda: adapter(), "validate", {}),
    }
    said = {}
    for name, (make, act, more) in tries.items():
        trainer = trainer_of(**{"devices": 2, "strategy": ShardedStrategy(), "max_steps": 1} | more)
        try:
            getattr(trainer, act)(make(), prompts)
        except ValueError as error:
            said[name] = str(error)
    return said


def main(folder):
    """Each case straight, cut and resumed, and resumed from a run that was not sharded; rank 0 writes the results."""
    torch.set_num_threads(1)
    results = {}
    for case in CASES:
        two, one = folder / "two" / case, folder / "one" / case
        more = {"feature_cache": str(folder / "features")} if case == "merge" else {}
        result = run(case, two, 2, **more)
        hashes = [None, None]
        torch.distributed.all_gather_object(hashes, result["hashes"])
        result |= {
            "hashes": hashes,
            "resumed": run(case, folder / "resumed", 2, two / f"step={CUT}.ckpt", CUT)["weights"],
        }
        result["from_one"] = run(case, folder / "resumed", 2, one / f"step={BOUNDARY}.ckpt", BOUNDARY)["weights"]
        results[case] = result
    results["refused"] = refusals(folder)
    if torch.distributed.get_rank() == 0:
        torch.save(results, folder / "two.pt")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
