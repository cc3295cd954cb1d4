"""What the optimizer is given, and the learning-rate schedule over a run's steps."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_vpo.schedules import RoundPlan, Shape, warmup_in_rounds, warmup_then

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def param_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay, biases and norms (one-dimensional ones) do not.

    Raises:
        ValueError: If nothing is trainable.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("no parameter is trainable; check `tuning` and the LoRA targets")
    decay = [p for p in trainable if p.dim() > 1]
    rest = [p for p in trainable if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def scheduled(
    optimizer: Optimizer, shape: Shape, warmup_steps: int, max_steps: int, rounds: RoundPlan | None = None
) -> dict[str, Any]:
    """The optimizer with its schedule, in the form that Lightning's `configure_optimizers` returns.

    Args:
        optimizer: As built from `param_groups`.
        shape: See `lit_vpo.schedules.warmup_then`.
        warmup_steps: See there.
        max_steps: `trainer.max_steps`; never `estimated_stepping_batches`, which drops the loaders' state on resume
            (Lightning issue 20550).
        rounds: Where a run has rounds: the schedule begins anew in each.

    Raises:
        ValueError: If the schedule is impossible.
    """
    if rounds is None:
        factor = warmup_then(shape, warmup_steps, max_steps)
    else:
        factor = warmup_in_rounds(shape, warmup_steps, rounds)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
