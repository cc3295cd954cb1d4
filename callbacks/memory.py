"""Peak memory: expected before the first step, measured at the end."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.lora import plain
from lit_vpo.memory import MemoryEstimate, estimate_memory, load_of, measured_peak
from lit_vpo.models.registry import video_token
from lit_vpo.protocols import SharesPrefix


class MemoryReport(Callback):
    """Logs an estimate of peak memory per device before the first step, and the measured peak beside it at the end.

    The estimate is the largest of the batches so far, for a device that holds everything: sharding is not known
    to it, nor what other libraries allocate. On a CPU the measured peak is the process's, which is more than tensors.
    It reads batches that have labels, of modules that train a language model, and is silent about others.
    """

    def __init__(self) -> None:
        self.estimate: MemoryEstimate | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.estimate = None
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not isinstance(pl_module, SharesPrefix) or "labels" not in batch:
            return
        first, estimate = self.estimate is None, estimate_step(trainer, pl_module, batch)
        if self.estimate is None or estimate.total > self.estimate.total:
            self.estimate = estimate
        if first:
            rank_zero_info(f"peak memory per device, estimated from the first batch:\n{self.estimate}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.estimate is not None:
            peak, what = measured_peak(pl_module.device)
            rank_zero_info(
                f"peak memory per device: estimated {self.estimate.total / 2**30:.3f} GiB for the largest batch, "
                f"measured {peak / 2**30:.3f} GiB ({what})"
            )


def estimate_step(trainer: Trainer, module: Any, batch: Any) -> MemoryEstimate:
    """The estimate for one batch of a module's training."""
    network = plain(module.network)
    return estimate_memory(
        module,
        network.get_decoder(),
        load_of(batch, module.share_prefix, video_token(network.config)),
        checkpointing=network.is_gradient_checkpointing,
        autocast=str(trainer.precision).endswith("-mixed"),
        optimizer_states=states_of(trainer.optimizers[0]),
    )


def states_of(optimizer: torch.optim.Optimizer) -> int:
    """Tensors that an optimizer keeps per parameter: one per beta, one for momentum, else none."""
    defaults = optimizer.defaults
    return len(defaults["betas"]) if "betas" in defaults else int(bool(defaults.get("momentum")))
