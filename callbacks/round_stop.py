"""Ends training when rounds stop helping, by what validation sees; the test split is never looked at."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.metrics import verbosity_metrics
from lit_vpo.preferences.verdict_rows import round_verdicts

from .rounds import RoundCallback

ERROR = "val/captions/event_error/total"
REPETITION = "val/captions/repetition"
ACCURACY = "val/questions/accuracy"
LENGTH_RATIO = "verbosity/length_ratio"


class RoundStop(RoundCallback):
    """Stops when held-out event error has not improved for some rounds, or language degrades beyond a bound.

    Such a bound is also one on verbosity, where a judge made the round's pairs: how many times as many words as the
    rejected answers the chosen ones have (`lit_vpo.metrics.verbosity_metrics`), before a round is trained on them.

    The first validation after each boundary counts; set `trainer.val_check_interval` so that one comes every round.
    Repetition and question accuracy are compared with the first round's (arXiv 2410.06682 stops "when significant
    degradation of language ability is seen"; the bounds are ours).

    Args:
        patience: Rounds without a lower event error that are borne.
        repetition_rise: Share of captions that may repeat themselves more than after the first round.
        accuracy_drop: Loss of question accuracy that is borne, as a share.
        length_ratio: Mean |chosen| / |rejected| of a round's verdicts that is borne (our default for ISR-DPO is 1.3);
            null sets no bound.

    Raises:
        ValueError: At construction for bounds below 0, no patience or a length_ratio below 1; after the first round if
            validation does not measure the event error, or length_ratio is given and the round has no verdicts.
    """

    def __init__(
        self,
        patience: int = 2,
        repetition_rise: float = 0.05,
        accuracy_drop: float = 0.01,
        length_ratio: float | None = None,
    ) -> None:
        super().__init__()
        if patience < 1 or not repetition_rise >= 0 or not accuracy_drop >= 0:
            raise ValueError(
                f"RoundStop needs patience >= 1 and bounds >= 0, got {patience}, {repetition_rise} and {accuracy_drop}"
            )
        if length_ratio is not None and not length_ratio >= 1:
            raise ValueError(f"RoundStop needs length_ratio >= 1 (or null for no bound), got {length_ratio}")
        self.length_ratio = length_ratio
        self.patience, self.repetition_rise, self.accuracy_drop = patience, repetition_rise, accuracy_drop
        self.history: list[dict[str, float]] = []  # one entry per round that validation has seen the end of

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rounds: int = getattr(pl_module, "round", 0)
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or rounds <= len(self.history):
            return
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if ERROR not in measured:
            raise ValueError(f"RoundStop reads {ERROR}: add the CaptionScores callback and data.val_prompts")
        seen = {name: measured[name] for name in (ERROR, REPETITION, ACCURACY) if name in measured}
        # after the last round nobody samples: there is none to train on the verdicts
        if self.length_ratio is not None and not trainer.global_step >= trainer.max_steps > 0:
            verdicts = round_verdicts(Path(trainer.default_root_dir) / "rounds" / str(rounds), trainer.world_size)
            seen[LENGTH_RATIO] = verbosity_metrics(verdicts)["length_ratio"]
        self.history += [seen] * (rounds - len(self.history))  # a round without a validation of its own
        reason = self.reason()
        if reason is not None:
            rank_zero_info(f"round {rounds}: training stops, {reason}")
            trainer.should_stop = True

    def reason(self) -> str | None:
        """Why to stop now; None to go on."""
        first, last = self.history[0], self.history[-1]
        errors = [seen[ERROR] for seen in self.history]
        if len(errors) > self.patience and min(errors[-self.patience :]) >= min(errors[: -self.patience]):
            return f"the event error has not improved for {self.patience} rounds ({errors[-1]:.4f})"
        if last.get(REPETITION, 0.0) > first.get(REPETITION, 0.0) + self.repetition_rise:
            return f"repetition rose from {first[REPETITION]:.4f} to {last[REPETITION]:.4f}"
        if last.get(ACCURACY, 1.0) < first.get(ACCURACY, 1.0) - self.accuracy_drop:
            return f"question accuracy fell from {first[ACCURACY]:.4f} to {last[ACCURACY]:.4f}"
        if self.length_ratio is not None and last.get(LENGTH_RATIO, 0.0) > self.length_ratio:
            return f"chosen answers have {last[LENGTH_RATIO]:.2f} times the words of rejected ones"
        return None

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"history": self.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.history = list(state_dict["history"])
