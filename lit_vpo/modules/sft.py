"""Supervised fine-tuning: the likelihood of the ground truth."""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_vpo.batch import InstructionBatch
from lit_vpo.losses import REDUCTIONS, Logps, Reduction, nll, over_window
from lit_vpo.modules.base import VideoLMModule
from lit_vpo.modules.policy import IGNORED


class SFTModule(VideoLMModule):
    """Minimises the cross-entropy of each record's ground truth.

    Logs `loss/ce_ground_truth` (nats per token, whatever the reduction) and `loss/total` (what is minimised).

    Args:
        model: See `VideoLMModule`.
        reduction: `token` averages over all tokens of an optimizer step, `sample` over its responses; either is the
            same however the step is accumulated or spread over ranks (`lit_vpo.losses.means`).
        kwargs: The other arguments of `VideoLMModule` (configurations list them by name).

    Raises:
        ValueError: As `VideoLMModule`, or for an unknown reduction.
    """

    def __init__(self, model: str, reduction: Reduction = "token", **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.reduction: Reduction = reduction
        self.losses = torch.nn.ModuleDict({stage: MeanMetric() for stage in ("fit", "val", "test")})

    @override
    def training_step(self, batch: InstructionBatch, batch_idx: int) -> Tensor:
        logps = self.logps(batch, self.encode(batch))
        self.guard_first_step(batch, logps)
        mean = nll(logps.sums, logps.lengths, self.reduction, batch["weight"])
        loss = over_window(mean, batch.get("window"), "ground_truth", self.reduction)
        self.gather("fit", logps)
        self.log("loss/total", mean.value.detach(), prog_bar=True, batch_size=len(batch["records"]))
        return loss

    @override
    def evaluate_objective(self, batch: Any, stage: Literal["val", "test"]) -> dict[str, Any]:
        if batch["kind"] != "instruction":
            return super().evaluate_objective(batch, stage)
        logps = self.logps(batch, self.encode(batch))
        self.gather(stage, logps)
        return {"logps": logps.sums}

    def gather(self, stage: str, logps: Logps) -> None:
        """Add a batch to the mean over tokens."""
        losses: Any = self.losses[stage]
        losses.update(-logps.tokens.detach().mean(), weight=len(logps.tokens))

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if self.logs_now:
            self.log_metrics("fit")

    @override
    def log_metrics(self, stage: str) -> None:
        if stage != "fit":
            super().log_metrics(stage)
        losses: Any = self.losses[stage]
        if losses.update_called:
            prefix = "" if stage == "fit" else f"{stage}/"
            self.log(f"{prefix}loss/ce_ground_truth", losses.compute())
        losses.reset()
