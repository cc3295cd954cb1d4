"""Data: shards of videos with their manifest, overlays of preferences, loaders, and the LightningDataModules."""

if __name__ != "lit_vpo.datamodules":
    raise ImportError(f"this folder is the package lit_vpo.datamodules, not {__name__!r}: import lit_vpo.datamodules")

from .base import Source, VideoShardDataModule
from .collate import Collator
from .instruction import InstructionDataModule
from .loader import ShardLoader
from .manifest import Manifest, Sample
from .overlay import Overlay, read_overlay, write_overlay
from .plan import EpochPlan
from .preference import PreferenceDataModule
from .prompts import PromptDataModule
from .quarantine import BadSample, Quarantine, read_quarantine
from .reader import RecordReader
from .schemas import read_annotations
from .video import Clip, decode, probe
from .writer import ShardWriter

__all__ = [
    "BadSample",
    "Clip",
    "Collator",
    "EpochPlan",
    "InstructionDataModule",
    "Manifest",
    "Overlay",
    "PreferenceDataModule",
    "PromptDataModule",
    "Quarantine",
    "RecordReader",
    "Sample",
    "ShardLoader",
    "ShardWriter",
    "Source",
    "VideoShardDataModule",
    "decode",
    "probe",
    "read_annotations",
    "read_overlay",
    "read_quarantine",
    "write_overlay",
]
