"""Objectives: the LightningModules."""

from lit_vpo.modules.base import VideoLMModule
from lit_vpo.modules.sft import SFTModule
from lit_vpo.modules.trainables import TrainablesModule

__all__ = ["SFTModule", "TrainablesModule", "VideoLMModule"]
