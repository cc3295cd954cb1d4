"""How far the policy has moved from its base, on captions that it draws for the validation prompts."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_vpo.protocols import HasBase


class BaseKL(Callback):
    """Estimates KL(policy || base) after every validation and logs it as `val/base_kl`, in nats per caption.

    The base is what the policy was before its first step, whatever rounds merged since. For each validation prompt x
    the policy draws one caption y from its whole distribution (temperature 1, no top-p, any token but the placeholder
    of videos; the greedy caption would bias the estimate), and the mean over prompts of log policy(y|x) - log base(y|x)
    is logged: the estimate k1 of http://joschu.net/blog/kl-approx.html. It is unbiased for captions cut at the module's
    `max_new_tokens`; its error is that of a mean over so many prompts, so near 0 it may be negative. Errors against
    this distance show what a gain costs (Gao et al., arXiv 2210.10760).

    It costs the drawing, scoring every caption twice, and two passes over the weights that were merged into. The
    prompts of a validation are held in the host's memory until its end.
    """

    def __init__(self) -> None:
        self.batches: list[Any] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, HasBase):
            raise ValueError(f"BaseKL needs a module that keeps its base; {type(pl_module).__name__} does not")
        pl_module.check_base()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches = []

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch["kind"] == "prompt":
            self.batches.append(pl_module.transfer_batch_to_device(batch, torch.device("cpu"), dataloader_idx))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.batches:
            assert isinstance(pl_module, HasBase)
            mean = MeanMetric().to(pl_module.device)  # sums over ranks
            mean.update(pl_module.base_logratios(self.batches).to(pl_module.device))
            pl_module.log("val/base_kl", mean.compute())
        self.batches = []
