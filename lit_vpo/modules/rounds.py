"""Rounds: what lies between two changes of the reference. The module knows how a round ends, callbacks ask what for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lit_vpo.batch import PromptBatch
from lit_vpo.ledger import Ledger, new_ledger, policy_hash
from lit_vpo.lora import ADAPTER, lora_layers, reset_adapter
from lit_vpo.models import weights_hash
from lit_vpo.models.loading import weights_folder
from lit_vpo.models.registry import video_token
from lit_vpo.modules.generation import Decoding, pad_token, with_answers
from lit_vpo.modules.guards import check_ranks_agree
from lit_vpo.modules.policy import IGNORED
from lit_vpo.modules.referenced import ReferencedModule
from lit_vpo.optim import param_groups, scheduled
from lit_vpo.reference import AdapterOff, SecondAdapter, adapter_off
from lit_vpo.schedules import RoundPlan


@dataclass
class Boundary:
    """What shall happen where a round ends.

    Attributes:
        merge: Fold the adapter into the base and start a fresh one.
        new_weight: a of the reference's refresh; None leaves the reference alone.
        planned: Whether a callback counts on it.
    """

    merge: bool = False
    new_weight: float | None = None
    planned: bool = False


class RoundsModule(ReferencedModule):
    """Base of the modules that train in rounds (video-SALMONN 2, arXiv 2410.06682; TR-DPO, arXiv 2404.09656).

    | reference | merge | refresh by a |
    |---|---|---|
    | adapter_off | fold, fresh adapter: the reference is the merged base | fold a s B A, scale B by 1 - a |
    | second_adapter | fold, both adapters fresh | second <- (1 - a) second + a adapter |
    | frozen_copy | refused | copy <- (1 - a) copy + a policy |

    A merge is a whole refresh, so with it `new_weight` can only be 1. Where a round ends, the optimizer's state is
    emptied and the learning rate rises anew.

    Args:
        model: See `ReferencedModule`.
        round_steps: Optimizer steps of every round, or a list of them for one round after the other, whose last number
            holds for all rounds that follow; null trains one round without end, unless a callback plans rounds.
        kwargs: The other arguments of `ReferencedModule`.

    Raises:
        ValueError: As `ReferencedModule`, or for rounds without a step.
    """

    def __init__(self, model: str, round_steps: int | list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        self.round_steps, self.round = round_steps, 0
        self.round_plan = None if round_steps is None else RoundPlan.of(round_steps)
        self.boundary = Boundary()
        self.ledger: Ledger | None = None

    def plan_rounds(self, steps: int | Sequence[int]) -> None:
        """Say how long rounds are, as `round_steps`, where it is left to a callback; for its `setup`.

        Raises:
            ValueError: If `round_steps` says otherwise, or a round has no step.
        """
        plan = RoundPlan.of(steps)
        if self.round_steps is not None and RoundPlan.of(self.round_steps) != plan:
            planned = f"a callback plans rounds of {steps} steps"
            raise ValueError(f"{planned}, the module has round_steps: {self.round_steps}; leave out the module's")
        self.round_plan = plan
        if self.net is not None:
            self._keep_ledger(self.net)

    def plan_boundary(self, merge: bool = False, new_weight: float | None = None) -> None:
        """Say what shall happen at the end of every round; for callbacks, in their `setup`.

        Args:
            merge: See `Boundary`.
            new_weight: See `Boundary`.

        Raises:
            ValueError: If the reference cannot do this.
        """
        self.boundary.planned = True
        self.boundary.merge |= merge
        self.boundary.new_weight = new_weight if new_weight is not None else self.boundary.new_weight
        self._check_boundary()

    def _check_boundary(self) -> None:
        weight, merge = self.boundary.new_weight, self.boundary.merge
        if weight is not None and not 0 < weight <= 1:
            raise ValueError(f"new_weight must be in (0, 1], got {weight}")
        if self.reference is None:
            if weight is not None:
                raise ValueError("there is no reference to refresh: the loss needs none; remove ReferenceRefresh")
        elif merge and not self.reference.needs_adapter:
            raise ValueError(f"LoRAMergeReinit cannot go with reference: {self.reference.name}; use ReferenceRefresh")
        if merge and self.tuning != "lora":
            raise ValueError(f"LoRAMergeReinit needs tuning: lora, got {self.tuning!r}")
        if merge and weight not in (None, 1.0):
            raise ValueError(f"a merge makes the reference the merged base; leave out ReferenceRefresh by {weight}")

    @override
    def setup(self, stage: str) -> None:
        # callbacks have been set up before, in any order: one of them may have planned the rounds
        if stage == "fit" and self.boundary.planned and self.round_plan is None:
            raise ValueError("callbacks of rounds need the module's round_steps (optimizer steps)")
        super().setup(stage)

    @override
    def build(self) -> Any:
        net = super().build()
        if self.round_plan is not None:
            self._keep_ledger(net)
        return net

    def _keep_ledger(self, net: Any) -> None:
        if self.tuning == "lora" and self.ledger is None:
            self.ledger = new_ledger(net, weights_folder(self.model))

    def round_is_over(self) -> bool:
        """Whether the last optimizer step was a round's last, and its boundary was not yet crossed."""
        return self.round_plan is not None and self.round_plan.at(self.trainer.global_step).number > self.round

    def end_round(self) -> None:
        """Cross the boundary that was planned, once: where the round is not over, this does nothing."""
        if not self.round_is_over():
            return
        self.round += 1
        self.purpose = f"generate/round-{self.round}"
        self.cross(self.boundary.merge, self.boundary.new_weight)
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()
        self.guarded = self.video_guarded = False  # the new round's first step is checked like the first one
        check_ranks_agree(self.reference_hash(), self.trainer.strategy.broadcast(self.reference_hash()))

    @torch.no_grad()
    def cross(self, merge: bool, new_weight: float | None) -> None:
        """Merge and refresh, by the table above.

        Args:
            merge: See `Boundary`.
            new_weight: See `Boundary`.
        """
        if merge:
            self._merge(1.0)
            reset_adapter(self.net, self.seed, self.round)
            if isinstance(self.reference, SecondAdapter):
                self.reference.refresh(self.net, 1.0)
        elif new_weight is not None and isinstance(self.reference, AdapterOff):
            self._merge(new_weight)
            for _, layer in lora_layers(self.net):
                layer.lora_B[ADAPTER].weight.mul_(1 - new_weight)
        elif new_weight is not None and self.reference is not None:
            self.reference.refresh(self.net, new_weight)
        self.forget_reference()
        rank_zero_info(f"round {self.round}: reference {self.reference_hash()[:12]}")

    def candidates(
        self, batch: PromptBatch, num_candidates: int, temperature: float | None, top_p: float
    ) -> list[dict[str, Any]]:
        """Answers to draw pairs from, as `generations`; each names the policy that gave it.

        Args:
            batch: Prompts.
            num_candidates: Answers to each.
            temperature: Of the sampling; None takes the likeliest token.
            top_p: Of the sampling.
        """
        decoding = self.decoding._replace(temperature=temperature, top_p=top_p)
        return [row | {"model": self.policy_identity} for row in self.generations(batch, num_candidates, decoding)]

    @property
    def policy_identity(self) -> dict[str, Any]:
        """Names the policy of this moment in what it writes, without reading its weights."""
        step = self.trainer.global_step
        return {"name": self.model, "base": self.base_hash, "reference": self.reference_hash(), "step": step}

    @override
    def policy_hash(self) -> str:
        return policy_hash(self.net, self.ledger)

    def check_base(self) -> None:
        """Refuse to compare with the base where it is lost.

        Raises:
            ValueError: If more than an adapter is trained.
        """
        if self.tuning != "lora":
            raise ValueError(f"the base's weights are kept with tuning: lora alone, got {self.tuning!r}")

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """The network is the base inside this context, without gradients; the policy again, bit for bit, after it."""
        with adapter_off(self.net), self.ledger.undone(self.net) if self.ledger else nullcontext():
            yield

    @torch.no_grad()
    def base_logratios(self, batches: Sequence[PromptBatch]) -> Tensor:
        """log policy(y|x) - log base(y|x) of an answer y which the policy draws to each prompt x.

        Answers are samples of the whole distribution (temperature 1, no top-p) but for the placeholder of videos, cut
        at `max_new_tokens`.

        Args:
            batches: Of N prompts, on the CPU.

        Returns:
            (N,) on the CPU.
        """
        drawn = [self._drawn(batch) for batch in batches]
        policy = [self._answer_logps(rows) for rows in drawn]
        with self.at_base():
            base = [self._answer_logps(rows) for rows in drawn]
        return torch.cat(policy) - torch.cat(base)

    def _drawn(self, batch: PromptBatch) -> dict[str, Any]:
        placeholder = video_token(self.base.config)  # the rows that score an answer would look for a video there
        decoding = Decoding(self.decoding.max_new_tokens, temperature=1.0, never=(placeholder,))
        # the same address in every round: what moves between them is the policy, not the luck of the draw
        answers = self.answer_tokens(self.transfer_batch_to_device(batch, self.device, 0), decoding, "base_kl")
        return with_answers(batch, answers, pad_token(self.processor.tokenizer))

    def _answer_logps(self, rows: dict[str, Any]) -> Tensor:
        rows = self.transfer_batch_to_device(rows, self.device, 0)
        return self.logps(rows, self.encode(rows)).sums.cpu()

    def _merge(self, weight: float) -> None:
        assert self.ledger is not None
        error = self.ledger.retire(self.net, weight)
        self.frozen_hash = weights_hash(self.net, frozen_only=True)
        rank_zero_info(
            f"round {self.round}: merged {weight:g} of the adapter; rounding changed a weight by at most "
            f"{error.largest:.1e}, {error.relative:.1e} of the update"
        )

    @property
    def starts_as_reference(self) -> bool:
        """Whether the policy must equal the reference now: at the first step, and after a whole refresh."""
        step, boundary = self.trainer.global_step, self.boundary
        whole = boundary.merge or boundary.new_weight == 1
        return step == 0 or (whole and self.round_plan is not None and self.round_plan.at(step).begin == step)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        rounds: dict[str, Any] = {"round": self.round}
        if self.ledger is not None:
            rounds["ledger"] = self.ledger.state()
        if self.reference is not None and self.round:
            rounds["reference"] = self.reference.state(self.net)
        checkpoint["lit_vpo"]["rounds"] = rounds

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()
        self._replay(checkpoint.get("lit_vpo", {}).get("rounds", {}))
        super().on_load_checkpoint(checkpoint)

    def _replay(self, rounds: dict[str, Any]) -> None:
        """Bring base and reference to where the checkpoint's round began.

        Raises:
            ValueError: If there are merged adapters and this run would go on without rounds, or they fit no layer.
        """
        self.round, ledger = rounds.get("round", 0), rounds.get("ledger", [])
        self.purpose = f"generate/round-{self.round}" if self.round else type(self).purpose
        if ledger and self.ledger is None:
            fits = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
            if fits or self.device_mesh is not None:  # W_0 can no longer be read where it lies in shards
                raise ValueError("the checkpoint has merged adapters; give the round_steps that it was trained with")
            self._keep_ledger(self.net)
        if self.ledger is not None and (ledger or self.ledger.entries):
            self.ledger.load(ledger)
            self.ledger.apply(self.net)
            self.frozen_hash = weights_hash(self.net, frozen_only=True)
        if self.reference is not None:
            self.reference.load_state(self.net, rounds.get("reference", {}))
        self.forget_reference()

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(param_groups(self))
        return scheduled(optimizer, self.schedule, self.warmup_steps, self.trainer.max_steps, self.round_plan)
