"""Greedy captions of a bounded validation set, scored for events, order, repetition and length."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_vpo.metrics import CaptionErrors
from lit_vpo.protocols import CaptionScorer


class CaptionScores(Callback):
    """Scores what the module wrote for the validation prompts and logs it under `val/captions/`.

    Whole captions (`meta.scope` = video, the default) and captions of an interval are logged apart.

    Args:
        scorer: Counts the errors of one caption against its record; see `lit_vpo.protocols.CaptionScorer`.

    Raises:
        ValueError: In `setup`, if weights are sharded: then nothing can be generated.
    """

    def __init__(self, scorer: CaptionScorer) -> None:
        self.scorer = scorer
        self.errors: dict[str, CaptionErrors] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if pl_module.device_mesh is not None:
            raise ValueError(
                "CaptionScores reads captions, which ranks with sharded weights cannot generate; leave it and the "
                "prompts out of this run, and validate its checkpoints with trainer.strategy: auto"
            )

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.errors = {scope: CaptionErrors().to(pl_module.device) for scope in ("video", "interval")}

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
        if batch["kind"] != "prompt":
            return
        for row in outputs["generations"]:
            scope = row.get("meta", {}).get("scope", "video")
            if scope not in self.errors:
                raise ValueError(f"record {row['id']}: meta.scope must be video or interval, got {scope!r}")
            self.errors[scope].update(self.scorer(row["response"], row))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for scope, errors in self.errors.items():
            if errors.update_called:
                name = "captions" if scope == "video" else f"{scope}_captions"
                pl_module.log_dict({f"val/{name}/{k}": v for k, v in errors.compute().items()})
