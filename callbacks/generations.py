"""What the model wrote, as JSON lines: the door between `predict` and everything that reads its answers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override


class GenerationWriter(BasePredictionWriter):
    """Writes one row per prompt of `predict`: its record, `response`, `finished`, the model's name and hash.

    Rows go to `<path>.part` as they come and to `path` at the end, so that a file with the final name is whole.

    Args:
        path: The JSONL file.

    Raises:
        ValueError: In `setup`, if more than one process predicts (one file cannot serve two writers).
    """

    def __init__(self, path: str) -> None:
        super().__init__("batch")
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            raise ValueError("GenerationWriter writes from one process; run predict with `--trainer.devices 1`")

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.part.write_text("")

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: list[dict[str, Any]],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        with self.part.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in prediction)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        os.replace(self.part, self.path)
