"""What the model wrote, as JSON lines: the door between `predict` and everything that reads its answers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.atomic import read_whole_lines, write_lines
from lit_vpo.protocols import Answers, HasPlan


class GenerationWriter(BasePredictionWriter):
    """Writes one row per prompt of `predict`: its record, `response`, `finished`, `model` and `sampling`.

    Rows go to `<path>.part` as they come and to `path` at the end, so that a file with the final name is whole; one
    that is there is replaced in that one step. A run that was killed goes on behind the last whole batch in
    `<path>.part`, and ends with the same rows as a straight one. `<path>.part.json` holds what they were made with.

    Args:
        path: The JSONL file.

    Raises:
        ValueError: In `setup`, if more than one process predicts (one file cannot serve two writers). Before the first
            batch, if `<path>.part` was made by another policy, other settings or other prompts.
    """

    def __init__(self, path: str) -> None:
        super().__init__("batch")
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.options = self.path.with_name(self.path.name + ".part.json")

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            raise ValueError("GenerationWriter writes from one process; run predict with `--trainer.devices 1`")

    @override
    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not `on_predict_start`: the module learns the policy's hash there, after its callbacks
        loader = trainer.predict_dataloaders
        if not isinstance(pl_module, Answers) or not isinstance(loader, HasPlan):
            write_lines(self.part, [])  # nobody knows what its batches will be
            return
        options = pl_module.generation_identity() | {"prompts": loader.prompt_identity()}
        lines = self._known(options)
        skipped = loader.begin_after([_prompt_id(line) for line in lines])
        kept = [line for line in lines if _prompt_id(line) in skipped]
        if kept:
            rank_zero_info(f"{self.part} holds {len(kept)} answers already; predict goes on behind them")
        write_lines(self.options, [json.dumps(options)])
        write_lines(self.part, kept)

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
        self.options.unlink(missing_ok=True)

    def _known(self, options: dict[str, Any]) -> list[str]:
        """Answers of a run that was killed."""
        lines = read_whole_lines(self.part)
        if not lines:
            return []
        if not self.options.exists():
            raise ValueError(f"{self.part} does not say what it was made with ({self.options} is missing); remove it")
        made_with = json.loads(self.options.read_text())
        differ = _differences(made_with, json.loads(json.dumps(options)))
        if differ:
            raise ValueError(
                f"{self.part} holds answers of a run with other options ({'; '.join(differ)}); restore them to go on, "
                "or remove the file to begin anew"
            )
        return lines


def _prompt_id(line: str) -> str:
    row = json.loads(line)
    name: str = row.get("prompt_id", row["id"])
    return name


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two trees of plain values, by its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [each for key in names for each in _differences(before.get(key), now.get(key), f"{name}.{key}")]
    return [] if before == now else [f"{name.removeprefix('.')}: {before!r}, now {now!r}"]
