"""Data for generation: prompts alone."""

from .base import VideoShardDataModule
from .responses import Kind


class PromptDataModule(VideoShardDataModule):
    """Rows with ``prompt``, mostly for ``predict``; arguments as in :class:`VideoShardDataModule`."""

    train_kind: Kind = "prompt"
