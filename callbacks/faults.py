"""Samples that could not be used, as a curve beside the loss."""

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from .step import StepCallback


class DataFaults(StepCallback):
    """Logs `data/num_quarantined`, the number of samples that the loaders have put aside so far.

    Their shards, keys and reasons stand in `quarantine.jsonl`.
    """

    @override
    def on_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        count = getattr(trainer.datamodule, "num_quarantined", None)  # type: ignore[attr-defined]
        if count is not None:
            module.log("data/num_quarantined", float(count), batch_size=1)
