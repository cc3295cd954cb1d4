"""How pairs of each difficulty fare: logged in training and in validation."""

from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_vpo.metrics.difficulty import DifficultyMetrics, Group, group_of
from lit_vpo.preferences.perturbations import difficulty
from lit_vpo.protocols import HasDifficulty

from .step import StepCallback


class DifficultyLog(StepCallback):
    """Logs share, reward accuracy and margin of pairs for each divisor r and kind of perturbation.

    Of the pairs trained on since the last time, over all ranks: `curriculum/difficulty` (mean; 0 at r = 16, 1 at
    r = 2), `curriculum/r16/share`, `curriculum/r16/rewards/accuracies`, `curriculum/r16/rewards/margins`, and the same
    by kind, as `curriculum/r16/reverse/share`. Of a validation the same under `val/curriculum/`; pairs without r do not
    count there.

    Raises:
        ValueError: In `setup`, for data that do not know their difficulty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, DifficultyMetrics] = {}  # by the prefix of what they are logged as

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage not in ("fit", "validate"):
            return
        if not isinstance(data, HasDifficulty):
            raise ValueError(f"{type(self).__name__} needs pairs in stages: use CurriculumDataModule")
        self.metrics = {"val/": DifficultyMetrics(data.groups("val"))}
        if stage == "fit":
            self.metrics[""] = DifficultyMetrics(data.groups("train"))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics[""].to(pl_module.device)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._add("", batch, outputs["margins"])
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0:
            self._log("", module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics["val/"].to(pl_module.device).reset()

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
        if batch["kind"] == "preference":
            self._add("val/", batch, outputs["margins"])

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("val/", pl_module)

    def _add(self, prefix: str, batch: Any, margins: Tensor) -> None:
        groups = [group_of(record) for record in batch["records"]]
        counted = [n for n, group in enumerate(groups) if group is not None and batch["is_pair"][n] > 0]
        if counted:
            self.metrics[prefix].update([cast(Group, groups[n]) for n in counted], margins[counted])

    def _log(self, prefix: str, module: LightningModule) -> None:
        metrics = self.metrics[prefix]
        if not metrics.groups:  # the same on all ranks, who compute together
            return
        values = metrics.compute()
        metrics.reset()
        if values:
            shares = {r: values[f"r{r}/share"] for r, _ in metrics.groups}
            values["difficulty"] = cast(Tensor, sum(difficulty(r) * share for r, share in shares.items()))
            module.log_dict({f"{prefix}curriculum/{name}": value for name, value in values.items()})
