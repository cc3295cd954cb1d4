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
from lit_vpo.modules.base import IGNORED
from lit_vpo.modules.guards import check_finite, check_ln2, check_same_as_reference
from lit_vpo.modules.referenced import ReferencedModule, num_compared
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


class DPOModule(ReferencedModule):
    """Raises the likelihood of chosen over rejected, relative to the reference or without one.

    Videos are encoded once per batch; all roles and the reference share them. What is minimised is
    `loss` + `nll_weight` * NLL(chosen) + `ce_weight` * CE(ground truth). Metrics of pairs compare chosen with the first
    rejected response.

    Args:
        model: See `ReferencedModule`.
        loss: Of each record, from its chosen and rejected responses; see `lit_vpo.losses`.
        nll_weight: Weight of the chosen responses' negative log-likelihood (TEMPLE's released recipe: 1).
        nll_reduction: `token` averages over all tokens of an optimizer step, `sample` over its responses; either is the
            same however the step is accumulated or spread over ranks (`lit_vpo.losses.means`).
        ce_weight: Weight of the ground truth's cross-entropy (video-SALMONN 2: 0.1); needs ground-truth rows.
        ce_reduction: As `nll_reduction`.
        reference_tolerance: Largest difference of policy and reference on a token before the first step.
        kwargs: The other arguments of `ReferencedModule` (configurations list them by name).

    Raises:
        ValueError: As `ReferencedModule`, or for a negative weight, an unknown reduction.
    """

    def __init__(
        self,
        model: str,
        loss: PreferenceLoss | None = None,
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
        if not (nll_weight >= 0 and ce_weight >= 0):
            raise ValueError(f"nll_weight and ce_weight must be >= 0, got {nll_weight} and {ce_weight}")
        for reduction in (nll_reduction, ce_reduction):
            if reduction not in REDUCTIONS:
                raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.terms = {
            "loss/dpo": Term(1.0, "chosen", "sample"),
            "loss/nll_chosen": Term(nll_weight, "chosen", nll_reduction),
            "loss/ce_ground_truth": Term(ce_weight, "ground_truth", ce_reduction),
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

    def pair_logps(self, batch: PreferenceBatch, features: Features) -> PairLogps:
        """Score every row under the policy, chosen and rejected under the reference where the loss needs it."""
        policy = self.logps(batch, features)
        return PairLogps(policy, self.reference_logps(batch, features) if self.loss.needs_reference else None)

    def scored(self, batch: PreferenceBatch, logps: PairLogps) -> list[Scored]:
        """The roles that the loss compares: chosen, then as many rejected ones as it wants.

        Raises:
            ValueError: If the batch has another number of them.
        """
        size = len(batch["records"])
        policy = blocks(logps.policy, size)[: num_compared(batch)]
        reference: list[Any] = [None] * len(policy) if logps.reference is None else blocks(logps.reference, size)
        roles = [Scored(*pair) for pair in zip(policy, reference, strict=True)]
        if len(roles) != 1 + self.loss.num_rejected:
            raise ValueError(
                f"{type(self.loss).__name__} compares chosen with {self.loss.num_rejected} rejected responses, the "
                f"batch has {len(roles) - 1}: set data.num_negatives: {self.loss.num_rejected}"
            )
        return roles

    @override
    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        logps = self.pair_logps(batch, self.encode(batch))
        parts = self.objective(batch, logps)
        self.guard_pairs(batch, logps, parts["loss/dpo"].value)
        self.gather("fit", batch, logps, parts)
        total = self.total(batch, parts)
        self.log("loss/total", total, prog_bar=True, batch_size=len(batch["records"]))
        return total

    def objective(self, batch: PreferenceBatch, logps: PairLogps) -> dict[str, Mean]:
        """The terms of the loss, unweighted; NLL and CE are computed even where their weight is 0.

        Raises:
            ValueError: If the ground truth has a weight and the batch has no such rows, or as `scored`.
        """
        losses = self.loss(*self.scored(batch, logps))
        policy = blocks(logps.policy, len(losses))
        parts = {"loss/dpo": Mean(losses.sum(), losses.new_tensor(len(losses)))}
        texts = {"loss/nll_chosen": policy[0]}
        if batch["has_ground_truth"]:
            texts["loss/ce_ground_truth"] = policy[-1]
        elif self.terms["loss/ce_ground_truth"].weight:
            raise ValueError("ce_weight needs ground-truth rows: set data.with_ground_truth: true, or ce_weight: 0")
        return parts | {name: nll(own.sums, own.lengths, self.terms[name].reduction) for name, own in texts.items()}

    def total(self, batch: PreferenceBatch, parts: dict[str, Mean]) -> Tensor:
        """The batch's share of what the optimizer step minimises, ()."""
        shares = []
        for name, mean in parts.items():
            weight, role, reduction = self.terms[name]
            if weight:
                shares.append(weight * over_window(mean, batch.get("window"), role, reduction))
        return torch.stack(shares).sum()

    @torch.no_grad()
    def guard_pairs(self, batch: PreferenceBatch, logps: PairLogps, loss: Tensor) -> None:
        """Checks at the first training step; with a fresh adapter also that policy = reference, hence ln 2.

        Raises:
            ValueError: From `lit_vpo.modules.guards`.
        """
        reference = logps.reference
        if not self.guarded and reference is not None:
            check_finite(logps.policy.tokens, "policy")
            check_finite(reference.tokens, "reference")
            if self.trainer.global_step == 0:
                same = logps.policy.tokens[: len(reference.tokens)]
                check_same_as_reference(same, reference.tokens, self.reference_tolerance)
                if self.loss.starts_at_ln2:
                    longest = int(reference.lengths.max())
                    check_ln2(float(loss), 1e-6 + self.loss.beta * self.reference_tolerance * longest)
        self.guard_first_step(batch, logps.policy)

    @torch.no_grad()
    def gather(self, stage: Stage, batch: PreferenceBatch, logps: PairLogps, parts: dict[str, Mean]) -> Tensor:
        """Add a batch to the metrics of a stage; returns the margins of the rewards, (B,)."""
        chosen, rejected = self.scored(batch, logps)[:2]
        sums = [role.policy.sums for role in (chosen, rejected)]
        sums += [torch.zeros_like(sums[0]) if r.reference is None else r.reference.sums for r in (chosen, rejected)]
        rewards = self.loss.rewards(chosen), self.loss.rewards(rejected)
        pairs: Any = self.pairs[stage]
        pairs.update(*sums, chosen.policy.lengths, rejected.policy.lengths, self.loss.beta, rewards)
        losses: Any = self.losses[stage]
        for name, mean in parts.items():
            losses[name].update(mean.value, weight=mean.size)
        return rewards[0] - rewards[1]

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
        if pairs.update_called:
            values = pairs.compute() | {name: m.compute() for name, m in losses.items() if m.update_called}
            unknown = () if self.loss.needs_reference else _AGAINST_REFERENCE
            self.log_dict({f"{prefix}{name}": value for name, value in values.items() if name not in unknown})
        for metric in (pairs, *losses.values()):
            metric.reset()
