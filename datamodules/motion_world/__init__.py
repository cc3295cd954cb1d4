"""MotionWorld: a synthetic audio-visual world whose truth is known.

`scene` says what happens, `render` shows it, `language` and `questions` talk about it, `parsing` reads captions back
and counts their errors, `noise` gives captions bad habits, `slips` errors of perception, `judging` asks which of two
answers is better, `tasks` makes instruction data, `shards` writes it all to disk.
"""

from .language import true_caption
from .noise import HABITS, Noise, noisy_caption
from .parsing import parse, score_caption, score_reversed_acts
from .scene import Event, Scene, sample_scene

__all__ = [
    "HABITS",
    "Event",
    "Noise",
    "Scene",
    "noisy_caption",
    "parse",
    "sample_scene",
    "score_caption",
    "score_reversed_acts",
    "true_caption",
]
