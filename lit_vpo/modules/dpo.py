"""Direct preference optimisation: pairs scored by policy and reference, and losses that need no reference."""

from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_vpo.batch import PreferenceBatch
from lit_vpo.losses import (
    REDUCTIONS,
    DPOLoss,
    Logps,
    Mean,
    PreferenceLoss,
    Reduction,
    Scored,
    blocks,
    nll,
    over_window,
)
from lit_vpo.metrics import PreferenceMetrics
from lit_vpo.modules.guards import check_finite, check_ln2, check_same_as_reference
from lit_vpo.modules.policy import IGNORED
from lit_vpo.modules.rounds import RoundsModule
from lit_vpo.modules.scoring import Features

Stage = Literal["fit", "val", "test"]
_STAGES: tuple[Stage, ...] = ("fit", "val", "test")
_AGAINST_REFERENCE = ("kl", "logps_drift/chosen", "logps_drift/rejected")  # metrics that mean nothing without one


class Term(NamedTuple):
    """One term of the objective."""

    weight: float
    role: str  # whose responses it averages over
    reduction: Reduction


class PairLogps(NamedTuple):
    """Log-probabilities of one preference batch of B records with K compared roles."""

    policy: Logps  # R rows: chosen, rejected 1 to K - 1, then ground truth
    reference: Logps | None  # K B rows: the same without ground truth; None for losses that need none
    roles: list[Scored]  # the compared roles, B rows each
    ground_truth: Logps | None  # B rows, where the batch has them


class DPOModule(RoundsModule):
    """Raises the likelihood of chosen over rejected, relative to the reference or without one.

    Videos are encoded once per batch; all roles and the reference share them. What is minimised is
    `loss_weight` * `loss` + `nll_weight` * NLL(chosen) + `ce_weight` * CE(ground truth). Metrics of pairs compare
    chosen with the first rejected response. Records of mode `sft` among the pairs add the plain CE of their ground
    truth (`loss/sft`).

    Args:
        model: See `RoundsModule`.
        loss: Of each record, from its chosen and rejected responses; see `lit_vpo.losses`.
        loss_weight: Its weight; 0 leaves fine-tuning on the chosen responses or the ground truth, step for step on the
            rows that preference training has (a control).
        nll_weight: Weight of the chosen responses' negative log-likelihood (TEMPLE's released recipe: 1).
        nll_reduction: `token` averages over all tokens of an optimizer step, `sample` over its responses; either is the
            same however the step is accumulated or spread over ranks (`lit_vpo.losses.means`).
        ce_weight: Weight of the ground truth's cross-entropy (video-SALMONN 2: 0.1); needs ground-truth rows.
        ce_reduction: As `nll_reduction`.
        reference_tolerance: Largest difference of policy and reference on a token before the first step.
        kwargs: The other arguments of `RoundsModule` (configurations list them by name).

    Raises:
        ValueError: As `RoundsModule`, or for a negative weight, an unknown reduction.
    """

    def __init__(
        self,
        model: str,
        loss: PreferenceLoss | None = None,
        loss_weight: float = 1.0,
        nll_weight: float = 0.0,
        nll_reduction: Reduction = "token",
        ce_weight: float = 0.0,
        ce_reduction: Reduction = "token",
        reference_tolerance: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        loss = DPOLoss() if loss is None else loss
        super().__init__(model, needs_reference=loss.needs_reference, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        self.loss: PreferenceLoss = loss
        weights = {"loss_weight": loss_weight, "nll_weight": nll_weight, "ce_weight": ce_weight}
        if not (all(weight >= 0 for weight in weights.values()) and any(weights.values())):
            raise ValueError(f"{', '.join(weights)} must be >= 0 and not all 0, got {list(weights.values())}")
        for reduction in (nll_reduction, ce_reduction):
            if reduction not in REDUCTIONS:
                raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.terms = {
            "loss/dpo": Term(loss_weight, "chosen", "sample"),
            "loss/nll_chosen": Term(nll_weight, "chosen", nll_reduction),
            "loss/ce_ground_truth": Term(ce_weight, "ground_truth", ce_reduction),
            "loss/sft": Term(1.0, "sft", ce_reduction),
        }
        self.reference_tolerance = reference_tolerance
        self.pairs = nn.ModuleDict({stage: PreferenceMetrics() for stage in _STAGES})
        self.losses = nn.ModuleDict(
            {stage: nn.ModuleDict({name: MeanMetric() for name in self.terms}) for stage in _STAGES}
        )

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.reference is None:
            rank_zero_info(
                f"{type(self.loss).__name__} needs no reference: it is never run, and the checks at step 0 that "
                "policy = reference and that the loss is ln 2 are off"
            )

    @override
    def check_sharded(self, stage: str) -> None:
        super().check_sharded(stage)
        if any(parameter.requires_grad for parameter in self.loss.parameters()):
            raise ValueError(
                f"{type(self.loss).__name__} has parameters of its own, which are not sharded beside the network's; "
                "set trainer.strategy: ddp"
            )

    def pair_logps(self, batch: PreferenceBatch, features: Features) -> PairLogps:
        """Score every row under the policy, chosen and rejected under the reference where the loss needs it.

        Raises:
            ValueError: If the batch has other roles than the loss compares.
        """
        self.loss.check(batch)
        policy = self.logps(batch, features)
        reference = self.reference_logps(batch, features) if self.loss.needs_reference else None
        size = len(batch["records"])
        of_policy = blocks(policy, size)
        ground_truth = of_policy.pop() if batch["has_ground_truth"] else None
        of_reference: list[Any] = [None] * len(of_policy) if reference is None else blocks(reference, size)
        roles = [Scored(*pair) for pair in zip(of_policy, of_reference, strict=True)]
        return PairLogps(policy, reference, roles, ground_truth)

    @override
    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> dict[str, Tensor]:
        logps = self.pair_logps(batch, self.encode(batch))
        parts = self.objective(batch, logps)
        self.guard_pairs(batch, logps, parts["loss/dpo"])
        margins = self.gather("fit", batch, logps, parts)
        total = self.total(batch, parts)
        weighted = sum(self.terms[name].weight * mean.value.detach() for name, mean in parts.items())
        self.log("loss/total", weighted, prog_bar=True, batch_size=len(batch["records"]))
        return {"loss": total, "margins": margins}

    def objective(self, batch: PreferenceBatch, logps: PairLogps) -> dict[str, Mean]:
        """The terms of the loss, unweighted; NLL and CE are computed even where their weight is 0.

        Raises:
            ValueError: If the ground truth has a weight and the batch has no such rows.
        """
        of_pairs = batch["weight"] * batch["is_pair"]
        first = logps.roles[0].policy
        parts = {"loss/dpo": Mean((of_pairs * self.loss(*logps.roles)).sum(), of_pairs.sum())}
        texts = {"loss/nll_chosen": (first, of_pairs)}
        if not batch["is_pair"].all():
            texts["loss/sft"] = first, batch["weight"] - of_pairs
        if logps.ground_truth is not None:
            texts["loss/ce_ground_truth"] = logps.ground_truth, of_pairs
        elif self.terms["loss/ce_ground_truth"].weight:
            raise ValueError("ce_weight needs ground-truth rows: set data.with_ground_truth: true, or ce_weight: 0")
        reductions = {name: self.terms[name].reduction for name in texts}
        return parts | {
            name: nll(own.sums, own.lengths, reductions[name], weight) for name, (own, weight) in texts.items()
        }

    def total(self, batch: PreferenceBatch, parts: dict[str, Mean]) -> Tensor:
        """The batch's share of what the optimizer step minimises, ()."""
        shares = []
        for name, mean in parts.items():
            weight, role, reduction = self.terms[name]
            if weight:
                shares.append(weight * over_window(mean, batch.get("window"), role, reduction))
        return torch.stack(shares).sum()

    @torch.no_grad()
    def guard_pairs(self, batch: PreferenceBatch, logps: PairLogps, loss: Mean) -> None:
        """Checks at a round's first step: numbers are finite, and policy = reference where they should be, hence ln 2.

        Raises:
            ValueError: From `lit_vpo.modules.guards`.
        """
        reference = logps.reference
        if not self.guarded and reference is not None:
            check_finite(logps.policy.tokens, "policy")
            check_finite(reference.tokens, "reference")
            if self.starts_as_reference:
                same = logps.policy.tokens[: len(reference.tokens)]
                check_same_as_reference(same, reference.tokens, self.reference_tolerance)
                if self.loss.starts_at_ln2 and loss.size > 0:
                    longest = int(reference.lengths.max())
                    check_ln2(float(loss.value), 1e-6 + self.loss.beta * self.reference_tolerance * longest)
        self.guard_first_step(batch, logps.policy)

    @torch.no_grad()
    def gather(self, stage: Stage, batch: PreferenceBatch, logps: PairLogps, parts: dict[str, Mean]) -> Tensor:
        """Add a batch to the metrics of a stage; returns the margins of the rewards, (B,)."""
        chosen, rejected = logps.roles[:2]
        sums = [role.policy.sums for role in (chosen, rejected)]
        sums += [torch.zeros_like(sums[0]) if r.reference is None else r.reference.sums for r in (chosen, rejected)]
        rewards = self.loss.rewards(chosen), self.loss.rewards(rejected)
        real = batch["is_pair"] > 0
        if real.any():
            *given, won, lost = (
                each[real] for each in (*sums, chosen.policy.lengths, rejected.policy.lengths, *rewards)
            )
            pairs: Any = self.pairs[stage]
            pairs.update(*given, self.loss.beta, (won, lost))
        losses: Any = self.losses[stage]
        for name, mean in parts.items():
            if mean.size > 0:
                losses[name].update(mean.value, weight=mean.size)
        return rewards[0] - rewards[1]

    @torch.no_grad()
    def margins(self, batch: PreferenceBatch) -> Tensor:
        """Rewards of chosen minus those of rejected, (B,), measured apart from any stage's metrics."""
        chosen, rejected = self.pair_logps(batch, self.encode(batch)).roles[:2]
        return self.loss.rewards(chosen) - self.loss.rewards(rejected)

    @override
    def evaluate_objective(self, batch: Any, stage: Literal["val", "test"]) -> dict[str, Any]:
        if batch["kind"] != "preference":
            return super().evaluate_objective(batch, stage)
        logps = self.pair_logps(batch, self.encode(batch))
        return {"margins": self.gather(stage, batch, logps, self.objective(batch, logps))}

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
        values = pairs.compute() if pairs.update_called else {}
        values |= {name: metric.compute() for name, metric in losses.items() if metric.update_called}
        if values:
            unknown = () if self.loss.needs_reference else _AGAINST_REFERENCE
            self.log_dict({f"{prefix}{name}": value for name, value in values.items() if name not in unknown})
        for metric in (pairs, *losses.values()):
            metric.reset()
