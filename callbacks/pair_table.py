"""A table of validation pairs with their margins: what the model is being taught, to look at."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

COLUMNS = ("step", "video", "prompt", "chosen", "rejected", "generation", "margin")


class PairTable(Callback):
    """Logs the first pairs and generations of each validation, to W&B and to `<run_dir>/tables/step-N.jsonl`.

    Args:
        num_rows: How many pairs, and how many generations, at most.
    """

    def __init__(self, num_rows: int = 16) -> None:
        self.num_rows = num_rows
        self.rows: list[dict[str, Any]] = []

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = []

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
            margins = [float(margin) for margin in outputs["margins"]]
            self._add("margin", [{**r, "margin": m} for r, m in zip(batch["records"], margins, strict=True)])
        elif batch["kind"] == "prompt":
            self._add("generation", [{**row, "generation": row["response"]} for row in outputs["generations"]])

    def _add(self, field: str, records: list[dict[str, Any]]) -> None:
        room = self.num_rows - sum(row[field] is not None for row in self.rows)
        self.rows += [
            {column: record.get(column) for column in COLUMNS} | {"video": record["key"]} for record in records[:room]
        ]

    @override
    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self.rows:
            return
        rows = [row | {"step": trainer.global_step} for row in self.rows]
        path = Path(trainer.default_root_dir) / "tables" / f"step-{trainer.global_step}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("val/pairs", columns=list(COLUMNS), data=[[row[c] for c in COLUMNS] for row in rows])
