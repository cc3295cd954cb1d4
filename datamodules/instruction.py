"""Data for supervised fine-tuning: prompts and the answers to learn."""

from .base import VideoShardDataModule
from .responses import Kind


class InstructionDataModule(VideoShardDataModule):
    """Rows with ``prompt`` and ``ground_truth``; arguments as in :class:`VideoShardDataModule`."""

    train_kind: Kind = "instruction"
