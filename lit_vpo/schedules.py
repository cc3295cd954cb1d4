"""Pure functions from a step to a value."""

import math
from collections.abc import Callable
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]
SHAPES: tuple[Shape, ...] = ("constant", "linear", "cosine")


def warmup_then(shape: Shape, warmup_steps: int, max_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise, then a decay to 0 at the last step.

    Args:
        shape: `constant` stays at 1 after the rise, `linear` and `cosine` fall to 0.
        warmup_steps: Steps of the rise; step 0 takes 1 / warmup_steps, so that no step is lost.
        max_steps: Steps of the run; only `constant` works without (-1).

    Returns:
        A function of the step (0-based) in 0..1.

    Raises:
        ValueError: If the shape is unknown or the steps do not fit it.
    """
    if shape not in SHAPES:
        raise ValueError(f"schedule must be one of {', '.join(SHAPES)}, got {shape!r}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be >= 0, got {warmup_steps}")
    if shape != "constant" and max_steps < 1:
        raise ValueError(f"the {shape} schedule needs the number of steps: set trainer.max_steps")
    if shape != "constant" and warmup_steps >= max_steps:
        raise ValueError(f"warmup_steps ({warmup_steps}) must be less than trainer.max_steps ({max_steps})")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if shape == "constant":
            return 1.0
        done = min((step - warmup_steps) / (max_steps - warmup_steps), 1.0)
        return 1.0 - done if shape == "linear" else (1.0 + math.cos(math.pi * done)) / 2

    return factor
