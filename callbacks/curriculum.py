"""Which difficulty each round trains on: from easy to hard, by plan or by what has been learnt; and the controls."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.protocols import HasDifficulty, HasMargins
from lit_vpo.randomness import generator

from .difficulty import DifficultyLog
from .resample import Resampler
from .rounds import RoundCallback

Pacing = Literal["staged", "competence", "none", "reverse", "random"]


class CurriculumScheduler(DifficultyLog, RoundCallback):
    """Trains on one difficulty after the other (TEMPO, arXiv 2503.16929: r = 16, 8, 4, 2).

    A stage holds the pairs of one divisor r and begins where a round ends. So with `LoRAMergeReinit` beside it, each
    stage starts from a merged base with a fresh adapter, optimizer and learning rate, as in the released recipe. The
    rounds' lengths come from here: leave out the module's `round_steps`. It logs what `DifficultyLog` says.

    Args:
        pacing: `staged` takes the divisors in their order, a round each. `competence` too, but goes on when the policy
            tells chosen from rejected on held-out pairs of the stage. The controls train on the same pairs for as many
            steps: `reverse` takes the divisors backwards, `random` in a drawn order that is not theirs, and `none`
            mixes all pairs and begins rounds where `staged` does.
        divisors: From easy to hard; null takes all that the training pairs have, the largest first.
        steps: Optimizer steps of each stage, as one number or one for each divisor; null takes as many as `epochs` over
            the stage's pairs need. `competence` needs one number, of each round.
        epochs: Passes over a stage's pairs where `steps` is null.
        bound: Reward accuracy from which `competence` goes on, in (0, 1]: of all `data.val` pairs of the stage, after
            a round's last step and against that round's reference.
        max_rounds: Rounds on a stage after which `competence` goes on whatever the accuracy.
        seed: Of the order of `random`; that of `none` is the data's.

    Raises:
        ValueError: At construction for settings out of range. In `setup` for data without divisors or with an empty
            stage, for a `trainer.max_steps` that is not the stages' sum, or beside a `Resampler`. On resuming
            with another curriculum.
    """

    def __init__(
        self,
        pacing: Pacing = "staged",
        divisors: Sequence[int] | None = (16, 8, 4, 2),
        steps: int | list[int] | None = None,
        epochs: int = 1,
        bound: float = 0.8,
        max_rounds: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.pacing, self.steps, self.epochs = pacing, steps, epochs
        self.bound, self.max_rounds, self.seed = bound, max_rounds, seed
        self._check()
        self.takes_all = divisors is None
        self.divisors: list[int] = []  # with `takes_all` found in `setup` of a fit
        self.order: list[int] = []
        if divisors is not None:
            self._set_divisors(divisors)
        elif isinstance(steps, list):
            raise ValueError(f"steps {steps} needs divisors that it stands for; give both, or steps as one number")
        self.round_steps: list[int] = []  # planned in `setup` of a fit
        self.stage, self.rounds_here = 0, 0
        self.accuracy = 0.0  # on held-out pairs of the stage, when its last round ended

    def _check(self) -> None:
        steps = self.steps if isinstance(self.steps, list) else [1 if self.steps is None else self.steps]
        if self.pacing not in get_args(Pacing):
            raise ValueError(f"pacing must be one of {', '.join(get_args(Pacing))}, got {self.pacing!r}")
        if self.pacing == "competence" and not isinstance(self.steps, int):
            raise ValueError(f"pacing: competence needs the steps of a round as one number, got {self.steps}")
        if min(self.epochs, self.max_rounds, *steps) < 1 or not 0 < self.bound <= 1:
            raise ValueError(
                f"CurriculumScheduler needs steps, epochs and max_rounds >= 1 and a bound in (0, 1], got {self.steps}, "
                f"{self.epochs}, {self.max_rounds} and {self.bound}"
            )

    def _set_divisors(self, divisors: Sequence[int]) -> None:
        """Take the divisors, and the order of their stages."""
        self.divisors = list(divisors)
        if not self.divisors or len(set(self.divisors)) < len(self.divisors) or min(self.divisors) < 2:
            raise ValueError(f"divisors must be different numbers >= 2, one or more, got {self.divisors}")
        if self.pacing == "random" and len(self.divisors) < 2:
            raise ValueError("pacing: random needs two divisors or more; one has no other order")
        if isinstance(self.steps, list) and len(self.steps) != len(self.divisors):
            raise ValueError(f"steps must be one number, or one for each of {self.divisors}, got {self.steps}")
        self.order = order_of(self.pacing, self.divisors, self.seed)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, Resampler):
                names = f"CurriculumScheduler and {type(other).__name__}"
                raise ValueError(f"{names} both say what the next round trains on; leave out one")
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin(trainer, pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def _begin(self, trainer: Trainer, module: Any, data: HasDifficulty) -> None:
        """Plan stages and rounds, before the learning rate asks for them and before a checkpoint is loaded."""
        self.stage, self.rounds_here = 0, 0
        if self.takes_all:
            self._set_divisors(sorted({r for r, _ in data.groups("train")}, reverse=True))
        batches = data.plan_stages(self.order, mixed=self.pacing == "none")
        self.round_steps = self._steps(batches, trainer.accumulate_grad_batches)
        if self.pacing == "competence":
            self._check_competence(trainer, module, data)
        elif trainer.max_steps == -1:
            trainer.fit_loop.epoch_loop.max_steps = sum(self.round_steps)
        elif trainer.max_steps != sum(self.round_steps) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ValueError(
                f"the stages take {' + '.join(map(str, self.round_steps))} = {sum(self.round_steps)} optimizer steps, "
                f"trainer.max_steps is {trainer.max_steps}; set it to that sum, or to -1, which takes it"
            )
        module.plan_boundary()
        module.plan_rounds(self.round_steps)
        rank_zero_info(f"curriculum: {self.pacing}, rounds of {self.round_steps} steps; {self._what()}")

    def _steps(self, batches: list[int], accumulate: int) -> list[int]:
        """Optimizer steps of the rounds; as `lit_vpo.schedules.RoundPlan`."""
        if self.steps is None:
            return [self.epochs * -(-number // accumulate) for number in batches]
        if isinstance(self.steps, int):
            return [self.steps] * (1 if self.pacing == "competence" else len(self.order))
        of = dict(zip(self.divisors, self.steps, strict=True))
        return [of[r] for r in self.order]

    def _check_competence(self, trainer: Trainer, module: Any, data: HasDifficulty) -> None:
        if not isinstance(module, HasMargins):
            raise ValueError(f"pacing: competence needs a module with margins; {type(module).__name__} has none")
        if trainer.max_steps < 1:
            raise ValueError("pacing: competence cannot tell how long it takes; set trainer.max_steps")
        for r in self.order:
            data.held_out(r)

    @override
    def before_round_end(self, trainer: Trainer, module: LightningModule) -> None:
        # not from a validation: that of a boundary's step comes after the merge, where all margins are 0, and Lightning
        # leaves it out where a run resumes from that step's checkpoint
        if self.pacing == "competence":
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            with trainer.precision_plugin.val_step_context():
                accuracy = held_out_accuracy(module, data, self.order[self.stage])
            self.accuracy = trainer.strategy.broadcast(accuracy)
            module.log("curriculum/held_out_accuracy", self.accuracy, batch_size=1)

    @override
    def on_round_end(self, trainer: Trainer, module: LightningModule, round_index: int) -> None:
        self.rounds_here += 1
        if not self._goes_on():
            return
        self.stage, self.rounds_here = self.stage + 1, 0
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.begin_stage(self.stage)
        rank_zero_info(f"round {round_index} has ended; {self._what()}")

    def _goes_on(self) -> bool:
        """Whether the round that has just ended was its stage's last, and there is another stage."""
        if self.stage + 1 == len(self.order):
            return False
        learnt = self.accuracy >= self.bound or self.rounds_here >= self.max_rounds
        return learnt if self.pacing == "competence" else True

    def _what(self) -> str:
        pairs = (
            f"of r = {', '.join(map(str, self.order))}" if self.pacing == "none" else f"r = {self.order[self.stage]}"
        )
        return f"stage {self.stage + 1} of {len(self.order)}: pairs {pairs}"

    def _identity(self) -> dict[str, Any]:
        names = ("pacing", "divisors", "round_steps", "epochs", "bound", "max_rounds", "seed")
        return {name: getattr(self, name) for name in names}

    @override
    def state_dict(self) -> dict[str, Any]:
        own = {"stage": self.stage, "rounds_here": self.rounds_here, "curriculum": self._identity()}
        return super().state_dict() | own

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.round_steps:  # only looked at (`validate`)
            return
        for name, value in self._identity().items():
            if state_dict["curriculum"][name] != value:
                raise ValueError(
                    f"cannot resume: the checkpoint's curriculum has {name} {state_dict['curriculum'][name]!r}, this "
                    f"run's has {value!r}; resume with the same curriculum, data and ranks, or start a new run"
                )
        super().load_state_dict(state_dict)
        self.stage, self.rounds_here = state_dict["stage"], state_dict["rounds_here"]


def order_of(pacing: Pacing, divisors: Sequence[int], seed: int) -> list[int]:
    """The divisors in the order of their stages."""
    order = list(divisors)
    if pacing == "reverse":
        return order[::-1]
    draws = generator(seed, "curriculum")
    while pacing == "random" and order == list(divisors):
        order = [divisors[n] for n in torch.randperm(len(divisors), generator=draws)]
    return order


def held_out_accuracy(module: Any, data: HasDifficulty, r: int) -> float:
    """Share of the held-out pairs of a divisor whose chosen response has the higher reward.

    Raises:
        ValueError: If none of them could be read.
    """
    won = []
    for batch in data.held_out(r):
        margins = module.margins(module.transfer_batch_to_device(batch, module.device, 0))
        won += (margins[batch["is_pair"] > 0] > 0).tolist()
    if not won:
        raise ValueError(f"none of the data.val pairs of r = {r} could be read; see quarantine.jsonl")
    return sum(won) / len(won)
