"""Everything that happens on a schedule. Import this package as `lit_vpo.callbacks`."""

if __name__ != "lit_vpo.callbacks":
    raise ImportError(
        f"import this package as lit_vpo.callbacks, not as {__name__!r}: the folder is linked into lit_vpo"
    )

from .base_kl import BaseKL
from .caption_scores import CaptionScores
from .curriculum import CurriculumScheduler
from .faults import DataFaults
from .generations import GenerationWriter
from .memory import MemoryReport
from .pair_table import PairTable
from .pretrained import SavePretrained
from .resample import PreferenceResampler, Resampler
from .retrospection import SelfRetrospectiveResampler
from .round_stop import RoundStop
from .rounds import LoRAMergeReinit, ReferenceRefresh, RoundCallback
from .step import StepCallback
from .verbosity import Verbosity

__all__ = [
    "BaseKL",
    "CaptionScores",
    "CurriculumScheduler",
    "DataFaults",
    "GenerationWriter",
    "LoRAMergeReinit",
    "MemoryReport",
    "PairTable",
    "PreferenceResampler",
    "ReferenceRefresh",
    "Resampler",
    "RoundCallback",
    "RoundStop",
    "SavePretrained",
    "SelfRetrospectiveResampler",
    "StepCallback",
    "Verbosity",
]
