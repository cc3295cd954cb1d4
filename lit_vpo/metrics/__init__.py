"""Metrics of pairs, captions, answers and lengths, and intervals: functions, and classes where those add up."""

from .answers import OptionAccuracy, option_accuracy
from .bootstrap import Interval, bootstrap_ratio, paired_bootstrap, per_clip
from .captions import CaptionCounts, CaptionErrors, caption_errors
from .difficulty import DifficultyMetrics, group_of
from .lengths import word_lengths
from .preference import PreferenceMetrics, preference_metrics
from .verbosity import unsupported_words, verbosity_metrics

__all__ = [
    "CaptionCounts",
    "CaptionErrors",
    "DifficultyMetrics",
    "Interval",
    "OptionAccuracy",
    "PreferenceMetrics",
    "bootstrap_ratio",
    "caption_errors",
    "group_of",
    "option_accuracy",
    "paired_bootstrap",
    "per_clip",
    "preference_metrics",
    "unsupported_words",
    "verbosity_metrics",
    "word_lengths",
]
