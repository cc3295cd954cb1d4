"""What a round's end brings. The module owns a round's length and crosses its boundary once, whoever asks first."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_vpo.protocols import HasRounds


class RoundCallback(Callback):
    """Base of what happens at the end of rounds: `on_round_end`, after the module has crossed the boundary.

    What must still see the round's own reference goes into `before_round_end`, which all callbacks have had before the
    module crosses, whatever their order. Checkpoints of the boundary's step are written after it, because Lightning
    runs them last.
    """

    def __init__(self) -> None:
        self.seen = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, HasRounds):
            raise ValueError(f"{type(self).__name__} needs a module with rounds; {type(pl_module).__name__} has none")
        if stage == "fit":
            self.plan(pl_module)

    def plan(self, module: HasRounds) -> None:
        """Override: tell the module what every boundary brings.

        Raises:
            ValueError: If the module cannot do it.
        """

    def before_round_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Override: what to do after a round's last step, while policy and reference are still the round's."""

    def on_round_end(self, trainer: Trainer, module: LightningModule, round_index: int) -> None:
        """Override: what to do when rounds 1 to `round_index` have ended."""

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, HasRounds)
        if pl_module.round_is_over():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, RoundCallback):
                    callback.before_round_end(trainer, pl_module)
            pl_module.end_round()
        if pl_module.round > self.seen:
            self.seen = pl_module.round
            self.on_round_end(trainer, pl_module, self.seen)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


class LoRAMergeReinit(RoundCallback):
    """Folds the adapter into the base and starts a fresh one (LoRA proxy, arXiv 2410.06682)."""

    @override
    def plan(self, module: HasRounds) -> None:
        module.plan_boundary(merge=True)


class ReferenceRefresh(RoundCallback):
    """Moves the reference to the policy (TR-DPO, arXiv 2404.09656).

    Args:
        new_weight: a of reference <- (1 - a) reference + a policy; 1 copies.
    """

    def __init__(self, new_weight: float = 1.0) -> None:
        super().__init__()
        self.new_weight = new_weight

    @override
    def plan(self, module: HasRounds) -> None:
        module.plan_boundary(new_weight=self.new_weight)
