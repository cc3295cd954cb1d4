"""Rebirth tuning: the weights from before DPO learn from captions that the DPO'd policy wrote (arXiv 2410.06682)."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_vpo.modules.policy import IGNORED
from lit_vpo.modules.sft import SFTModule


class RebirthModule(SFTModule):
    """Teacher and student in one: in `predict` the policy of a checkpoint, in `fit` the weights that it began from.

    Both come from `model` (with its `adapter` and `init_from`): the teacher is that base, the ledger and the live
    adapter of the checkpoint; the student is the base alone, with a fresh adapter under `tuning: lora`.

    Args:
        model: See `SFTModule`; the model that DPO began from.
        teacher: Checkpoint of the last DPO round.
        kwargs: The other arguments of `SFTModule`.

    Raises:
        ValueError: As `SFTModule`; when the teacher is built, if the checkpoint began from other weights.
    """

    def __init__(self, model: str, teacher: str, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        if self.init_from is not None:
            raise ValueError(
                "RebirthModule begins from `model` and `adapter`; save the network of init_from with the "
                "SavePretrained callback and give that folder as `model`"
            )
        self.teacher = teacher

    @override
    def build(self) -> Any:
        teaches = self._trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING
        self.init_from = self.teacher if teaches else None
        return super().build()
