"""Objectives: the LightningModules."""

from lit_vpo.modules.base import VideoLMModule
from lit_vpo.modules.dpo import DPOModule
from lit_vpo.modules.rebirth import RebirthModule
from lit_vpo.modules.sft import SFTModule
from lit_vpo.modules.tower import TowerModule
from lit_vpo.modules.trainables import TrainablesModule

__all__ = ["DPOModule", "RebirthModule", "SFTModule", "TowerModule", "TrainablesModule", "VideoLMModule"]
