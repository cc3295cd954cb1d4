"""Direct preference optimisation against the same network with its adapter off."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_vpo.batch import PreferenceBatch
from lit_vpo.lora import refuse_unrestorable
from lit_vpo.losses import REDUCTIONS, DPOLoss, Logps, Reduction, nll
from lit_vpo.metrics import PreferenceMetrics
from lit_vpo.modules.base import IGNORED, Features, VideoLMModule
from lit_vpo.modules.guards import check_ln2, check_same_as_reference
from lit_vpo.reference import adapter_off

Stage = Literal["fit", "val", "test"]
_STAGES: tuple[Stage, ...] = ("fit", "val", "test")
_LOSSES = ("loss/dpo", "loss/nll_chosen", "loss/ce_ground_truth")
_PER_ROW = ("input_ids", "attention_mask", "labels", "video_index", "mm_token_type_ids")


class PairLogps(NamedTuple):
    """Log-probabilities of one preference batch of B pairs."""

    policy: Logps  # R rows: chosen, rejected, then ground truth
    reference: Logps  # 2B rows: chosen, rejected


class DPOModule(VideoLMModule):
    """Raises the likelihood of chosen over rejected, relative to the reference (the two-row form).

    Videos are encoded once per batch; chosen, rejected, ground truth and the reference share them. The loss is
    `loss` + `nll_weight` * NLL(chosen) + `ce_weight` * CE(ground truth).

    Args:
        model: See `VideoLMModule`; `tuning` must be `lora`, because the reference is the network without its adapter.
        loss: Loss of each pair from four summed log-probabilities.
        nll_weight: Weight of the chosen responses' negative log-likelihood (TEMPLE's released recipe: 1).
        nll_reduction: `token` averages over the tokens of a batch, `sample` over its responses.
        ce_weight: Weight of the ground truth's cross-entropy (video-SALMONN 2: 0.1); needs ground-truth rows.
        ce_reduction: As `nll_reduction`.
        reference_tolerance: Largest difference of policy and reference on a token before the first step.
        kwargs: The other arguments of `VideoLMModule` (configurations list them by name).

    Raises:
        ValueError: As `VideoLMModule`, or for another tuning, a negative weight, an unknown reduction.
    """

    def __init__(
        self,
        model: str,
        loss: nn.Module | None = None,
        nll_weight: float = 0.0,
        nll_reduction: Reduction = "token",
        ce_weight: float = 0.0,
        ce_reduction: Reduction = "token",
        reference_tolerance: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        if self.tuning != "lora":
            raise ValueError(
                f"DPOModule needs tuning: lora (its reference is the adapter switched off), got {self.tuning!r}"
            )
        if nll_weight < 0 or ce_weight < 0:
            raise ValueError(f"nll_weight and ce_weight must be >= 0, got {nll_weight} and {ce_weight}")
        for reduction in (nll_reduction, ce_reduction):
            if reduction not in REDUCTIONS:
                raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.loss: Any = DPOLoss() if loss is None else loss
        self.nll_weight, self.nll_reduction = nll_weight, nll_reduction
        self.ce_weight, self.ce_reduction = ce_weight, ce_reduction
        self.reference_tolerance = reference_tolerance
        self.pairs = nn.ModuleDict({stage: PreferenceMetrics() for stage in _STAGES})
        self.losses = nn.ModuleDict(
            {stage: nn.ModuleDict({name: MeanMetric() for name in _LOSSES}) for stage in _STAGES}
        )

    @override
    def build(self) -> Any:
        net = super().build()
        refuse_unrestorable(net)
        return net

    def reference_hash(self) -> str:
        """Content hash of the reference: the frozen weights."""
        return self.frozen_hash

    def pair_logps(self, batch: PreferenceBatch, features: Features) -> PairLogps:
        """Score every row under the policy, chosen and rejected under the reference."""
        rows, whole = 2 * len(batch["records"]), dict[str, Any](batch)
        compared = {name: value[:rows] if name in _PER_ROW else value for name, value in whole.items()}
        policy = self.logps(batch, features)
        with adapter_off(self.net):
            reference = self.logps(compared, features)
        return PairLogps(policy, reference)

    @override
    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        with torch.no_grad():  # tower and projector are frozen
            features = self.encode(batch["media"])
        logps = self.pair_logps(batch, features)
        parts = self.objective(batch, logps)
        self.guard_pairs(batch, logps, parts["loss/dpo"])
        self.gather("fit", logps, parts)
        total = parts["loss/dpo"] + self.nll_weight * parts["loss/nll_chosen"]
        if "loss/ce_ground_truth" in parts:
            total = total + self.ce_weight * parts["loss/ce_ground_truth"]
        self.log("loss/total", total, prog_bar=True, batch_size=len(batch["records"]))
        return total

    def objective(self, batch: PreferenceBatch, logps: PairLogps) -> dict[str, Tensor]:
        """The terms of the loss, unweighted, () each; NLL and CE are computed even where their weight is 0.

        Raises:
            ValueError: If the ground truth has a weight and the batch has no such rows.
        """
        b = len(batch["records"])
        policy, reference = logps.policy.sums, logps.reference.sums
        losses = self.loss(policy[:b], policy[b : 2 * b], reference[:b], reference[b:])
        parts = {"loss/dpo": losses.mean()}
        lengths = logps.policy.lengths
        parts["loss/nll_chosen"] = nll(policy[:b], lengths[:b], self.nll_reduction)
        if batch["has_ground_truth"]:
            parts["loss/ce_ground_truth"] = nll(policy[2 * b :], lengths[2 * b :], self.ce_reduction)
        elif self.ce_weight:
            raise ValueError("ce_weight needs ground-truth rows: set data.with_ground_truth: true, or ce_weight: 0")
        return parts

    @torch.no_grad()
    def guard_pairs(self, batch: PreferenceBatch, logps: PairLogps, loss: Tensor) -> None:
        """Checks at the first training step; with a fresh adapter also that policy = reference, hence ln 2.

        Raises:
            ValueError: From `lit_vpo.modules.guards`.
        """
        if not self.guarded and self.trainer.global_step == 0:
            compared = logps.policy.tokens[: len(logps.reference.tokens)]
            check_same_as_reference(compared, logps.reference.tokens, self.reference_tolerance)
            if getattr(self.loss, "starts_at_ln2", False):
                longest = int(logps.reference.lengths.max())
                check_ln2(float(loss), 1e-6 + self.loss.beta * self.reference_tolerance * longest)
        self.guard_first_step(batch, logps.policy)

    def gather(self, stage: Stage, logps: PairLogps, parts: dict[str, Tensor]) -> None:
        """Add a batch to the metrics of a stage."""
        b = len(logps.reference.sums) // 2
        policy, reference, lengths = logps.policy.sums.detach(), logps.reference.sums, logps.policy.lengths
        pairs: Any = self.pairs[stage]
        pairs.update(
            policy[:b], policy[b : 2 * b], reference[:b], reference[b:], lengths[:b], lengths[b : 2 * b], self.loss.beta
        )
        terms = [("loss/nll_chosen", self.nll_reduction, lengths[:b])]
        terms += [("loss/ce_ground_truth", self.ce_reduction, lengths[2 * b :])]
        weights: dict[str, Any] = {"loss/dpo": b}
        weights |= {name: counted.sum() if reduction == "token" else b for name, reduction, counted in terms}
        losses: Any = self.losses[stage]
        for name, value in parts.items():
            losses[name].update(value.detach(), weight=weights[name])

    @override
    def evaluate_objective(self, batch: Any, stage: Literal["val", "test"]) -> dict[str, Any]:
        if batch["kind"] != "preference":
            return super().evaluate_objective(batch, stage)
        logps = self.pair_logps(batch, self.encode(batch["media"]))
        self.gather(stage, logps, self.objective(batch, logps))
        b = len(batch["records"])
        rewards = self.loss.beta * (logps.policy.sums[: 2 * b] - logps.reference.sums)
        return {"margins": rewards[:b] - rewards[b:]}

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if self.logs_now:
            self.log_metrics("fit")

    @override
    def log_metrics(self, stage: str) -> None:
        if stage != "fit":
            super().log_metrics(stage)
        prefix = "" if stage == "fit" else f"{stage}/"
        pairs: Any = self.pairs[stage]
        losses: Any = self.losses[stage]
        if pairs.update_called:
            values = pairs.compute() | {name: m.compute() for name, m in losses.items() if m.update_called}
            self.log_dict({f"{prefix}{name}": value for name, value in values.items()})
        for metric in (pairs, *losses.values()):
            metric.reset()
