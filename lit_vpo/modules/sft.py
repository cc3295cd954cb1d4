"""Supervised fine-tuning: the likelihood of the ground truth."""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_vpo.batch import InstructionBatch
from lit_vpo.lora import LoRASettings
from lit_vpo.losses import REDUCTIONS, Logps, Reduction, nll
from lit_vpo.modules.base import IGNORED, VideoLMModule
from lit_vpo.modules.start import Tuning
from lit_vpo.modules.trainables import DTypeName, adamw
from lit_vpo.optim import OptimizerFactory
from lit_vpo.schedules import Shape


class SFTModule(VideoLMModule):
    """Minimises the cross-entropy of each record's ground truth.

    Logs `loss/ce_ground_truth` (nats per token, whatever the reduction) and `loss/total` (what is minimised).

    Args:
        model: As in `VideoLMModule`, like all that follow but the last.
        tuning: See there.
        lora: See there.
        adapter: See there.
        init_from: See there.
        family: See there.
        optimizer: See there.
        warmup_steps: See there.
        schedule: See there.
        max_new_tokens: See there.
        temperature: See there.
        top_p: See there.
        seed: See there.
        dtype: See there.
        gradient_checkpointing: See there.
        check_video: See there.
        reduction: `token` averages over the tokens of a batch, `sample` over its responses.

    Raises:
        ValueError: As `VideoLMModule`, or for an unknown reduction.
    """

    def __init__(
        self,
        model: str,
        tuning: Tuning = "lora",
        lora: LoRASettings | None = None,
        adapter: str | None = None,
        init_from: str | None = None,
        family: str | None = None,
        optimizer: OptimizerFactory = adamw,
        warmup_steps: int = 0,
        schedule: Shape = "constant",
        max_new_tokens: int = 128,
        temperature: float | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        dtype: DTypeName = "float32",
        gradient_checkpointing: bool = False,
        check_video: bool = True,
        reduction: Reduction = "token",
    ) -> None:
        super().__init__(
            model,
            tuning,
            lora,
            adapter,
            init_from,
            family,
            optimizer,
            warmup_steps,
            schedule,
            max_new_tokens,
            temperature,
            top_p,
            seed,
            dtype,
            gradient_checkpointing,
            check_video,
        )
        self.save_hyperparameters(ignore=IGNORED)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.reduction: Reduction = reduction
        self.losses = torch.nn.ModuleDict({stage: MeanMetric() for stage in ("fit", "val", "test")})

    @override
    def training_step(self, batch: InstructionBatch, batch_idx: int) -> Tensor:
        logps = self.logps(batch, self.encode(batch["media"]))
        self.guard_first_step(batch, logps)
        loss = nll(logps.sums, logps.lengths, self.reduction, batch["weight"])
        self.gather("fit", logps)
        self.log("loss/total", loss, prog_bar=True, batch_size=len(batch["records"]))
        return loss

    @override
    def evaluate_objective(self, batch: Any, stage: Literal["val", "test"]) -> dict[str, Any]:
        if batch["kind"] != "instruction":
            return super().evaluate_objective(batch, stage)
        logps = self.logps(batch, self.encode(batch["media"]))
        self.gather(stage, logps)
        return {"logps": logps.sums}

    def gather(self, stage: str, logps: Logps) -> None:
        """Add a batch to the mean over tokens."""
        self.losses[stage].update(-logps.tokens.detach().mean(), weight=len(logps.tokens))

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
