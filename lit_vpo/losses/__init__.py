"""The equations as pure functions of tensors, and the losses that YAML names.

Every loss takes one :class:`Scored` for each role of a batch of pairs: the chosen responses, then the rejected ones.
"""

from lit_vpo.losses.base import PreferenceLoss, Scored
from lit_vpo.losses.composite import MDPOLoss, NegativesLoss, SumLoss
from lit_vpo.losses.equations import (
    anchor_loss,
    apo_down_loss,
    apo_zero_loss,
    desensitised_sums,
    dpo_loss,
    dpo_margins,
    dpop_margins,
    hinge_loss,
    ipo_loss,
    odds_ratio_loss,
    robust_loss,
    simpo_loss,
)
from lit_vpo.losses.logps import Logps, blocks, response_mask, sequence_logps, summed, token_logps
from lit_vpo.losses.means import REDUCTIONS, Mean, Reduction, nll, over_window
from lit_vpo.losses.pairwise import (
    APODownLoss,
    APOZeroLoss,
    DPOLoss,
    DPOPLoss,
    HingeLoss,
    IPOLoss,
    LDDPOLoss,
    RobustLoss,
    SigmoidNormLoss,
)
from lit_vpo.losses.reference_free import ORPOLoss, SimPOLoss

__all__ = [
    "REDUCTIONS",
    "APODownLoss",
    "APOZeroLoss",
    "DPOLoss",
    "DPOPLoss",
    "HingeLoss",
    "IPOLoss",
    "LDDPOLoss",
    "Logps",
    "MDPOLoss",
    "Mean",
    "NegativesLoss",
    "ORPOLoss",
    "PreferenceLoss",
    "Reduction",
    "RobustLoss",
    "Scored",
    "SigmoidNormLoss",
    "SimPOLoss",
    "SumLoss",
    "anchor_loss",
    "apo_down_loss",
    "apo_zero_loss",
    "blocks",
    "desensitised_sums",
    "dpo_loss",
    "dpo_margins",
    "dpop_margins",
    "hinge_loss",
    "ipo_loss",
    "nll",
    "odds_ratio_loss",
    "over_window",
    "response_mask",
    "robust_loss",
    "sequence_logps",
    "simpo_loss",
    "summed",
    "token_logps",
]
