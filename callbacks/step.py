"""The one idiom of every schedule: act once per optimizer step, never per micro-batch."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class StepCallback(Callback):
    """Calls `on_step` after each optimizer step.

    `on_train_batch_end` fires per micro-batch (Lightning issue 6359), so the step is recognised by
    `trainer.global_step` moving on. The state is one number, hence a resumed run acts at the same steps as a straight
    one.

    Args:
        name: Distinguishes two callbacks of one class in a checkpoint; a name, never a tunable value, because the
            state is filed under it.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.last_step = 0

    @property
    @override
    def state_key(self) -> str:
        return f"{type(self).__qualname__}[{self.name}]" if self.name else type(self).__qualname__

    def on_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Override: what to do after optimizer step `step` (1-based)."""

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.last_step:
            self.last_step = trainer.global_step
            self.on_step(trainer, pl_module, self.last_step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"last_step": self.last_step}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.last_step = state_dict["last_step"]
