"""Logs what a round's verdicts say about verbosity and about the judge."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_vpo.metrics import verbosity_metrics
from lit_vpo.preferences.agreement import agreement, exact_choices
from lit_vpo.preferences.verdict_rows import round_verdicts
from lit_vpo.protocols import CaptionScorer, HasRounds


class Verbosity(Callback):
    """Logs `verbosity/...` once per round, before the first batch that trains on the round's pairs.

    It reads `<default_root_dir>/rounds/<k>/verdicts.*.jsonl` of all ranks, so its place among the callbacks does not
    matter, and it writes straight to the loggers, so `log_every_n_steps` does not either. A value stands at the last
    step before the round (Lightning numbers steps from 0). The first round's pairs may have been made before the run;
    then round 0 has no verdicts and nothing is logged for it.

    Args:
        scorer: With it `verbosity/judge_accuracy` and `verbosity/judge_kappa` are logged too: the agreement with the
            exact event judge (`lit_vpo.preferences.agreement`).

    Raises:
        ValueError: In `setup` for a module without rounds; in training if a later round has no verdicts, or they cannot
            be read.
    """

    def __init__(self, scorer: CaptionScorer | None = None) -> None:
        self.scorer = scorer
        self.logged = -1  # the last round

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, HasRounds):
            raise ValueError(f"Verbosity needs a module with rounds; {type(pl_module).__name__} has none")

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, HasRounds)
        if pl_module.round == self.logged:
            return
        self.logged = pl_module.round
        folder = Path(trainer.default_root_dir) / "rounds" / str(self.logged)
        if trainer.is_global_zero and (self.logged > 0 or folder.is_dir()):
            values = self._measure(folder, trainer.world_size)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=max(0, trainer.global_step - 1))

    def _measure(self, folder: Path, world_size: int) -> dict[str, float]:
        rows = round_verdicts(folder, world_size)
        values = verbosity_metrics(rows)
        if self.scorer is not None:
            found = agreement(exact_choices(rows, self.scorer))
            values |= {"judge_accuracy": found.accuracy.estimate, "judge_kappa": found.kappa}
        return {f"verbosity/{name}": value for name, value in values.items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"logged": self.logged}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.logged = state_dict["logged"]
