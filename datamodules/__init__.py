"""Data: shards of videos with their manifest, overlays of preferences, loaders, and the LightningDataModules."""

if __name__ != "lit_vpo.datamodules":
    raise ImportError(f"this folder is the package lit_vpo.datamodules, not {__name__!r}: import lit_vpo.datamodules")

from .base import VideoShardDataModule
from .collate import Collator
from .curriculum import CurriculumDataModule
from .instruction import InstructionDataModule
from .loader import ShardLoader
from .manifest import Manifest, Sample
from .mix import Mix, OverlayShare, part_of, read_parts, write_part
from .overlay import Overlay, read_overlay, write_overlay
from .plan import EpochPlan
from .preference import PreferenceDataModule
from .probe import probe
from .prompts import PromptDataModule
from .quarantine import BadSample, Quarantine, read_quarantine
from .reader import RecordReader
from .round_data import RoundPreferenceDataModule
from .round_questions import QuestionMix
from .schemas import read_annotations
from .sources import Source
from .video import Clip, decode
from .writer import ShardWriter

__all__ = [
    "BadSample",
    "Clip",
    "Collator",
    "CurriculumDataModule",
    "EpochPlan",
    "InstructionDataModule",
    "Manifest",
    "Mix",
    "Overlay",
    "OverlayShare",
    "PreferenceDataModule",
    "PromptDataModule",
    "Quarantine",
    "QuestionMix",
    "RecordReader",
    "RoundPreferenceDataModule",
    "Sample",
    "ShardLoader",
    "ShardWriter",
    "Source",
    "VideoShardDataModule",
    "decode",
    "part_of",
    "probe",
    "read_annotations",
    "read_overlay",
    "read_parts",
    "read_quarantine",
    "write_overlay",
    "write_part",
]
