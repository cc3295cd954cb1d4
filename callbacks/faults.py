"""Samples that could not be used, as a curve beside the loss."""

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from .step import StepCallback


class DataFaults(StepCallback):
    """Logs `data/num_quarantined`, the number of samples that the loaders have put aside so far, and one per reason.

    The reasons are short, as in `data/quarantined/member_mp4_is_cut`; shards, keys and whole reasons stand in
    `quarantine.jsonl`. With several ranks, the curves are those of the first.
    """

    @override
    def on_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        count = getattr(data, "num_quarantined", None)
        if count is None:
            return
        module.log("data/num_quarantined", float(count), batch_size=1)
        for reason, samples in getattr(data, "quarantine_counts", {}).items():
            module.log(f"data/quarantined/{reason}", float(samples), batch_size=1)
