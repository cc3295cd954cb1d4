"""Checkpoints that replace the last one only when they are whole, whatever file system they lie on."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames: a full disk or a kill leaves the last one in place.

    Lightning's own writes to the system's temporary folder and moves from there, which is a plain copy onto the last
    checkpoint where that folder is another file system (`fsspec.implementations.local.LocalFileOpener.commit`).
    Paths with a protocol (`s3://...`) are left to Lightning.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # one name for all: what a killed process left is overwritten by the next checkpoint, not kept for ever
        part = path.with_name(".checkpoint.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
