"""A guard against verbosity: pairs whose chosen answer is much longer than the rejected one are not trained on."""

from collections.abc import Iterable
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def cap_length_ratio(pairs: Iterable[Row], max_ratio: float | None = 1.5) -> tuple[list[Row], list[Row]]:
    """Drops pairs whose chosen answer has more than `max_ratio` times the words of the rejected one.

    One-sided: a chosen answer that is shorter teaches no verbosity. For ISR-DPO the cap is our default, no number of
    the paper; between a cap and none lies `lit_vpo.losses.LDDPOLoss`, which keeps all pairs.

    Args:
        pairs: Overlay rows with `chosen` and `rejected`.
        max_ratio: Of words (parts between white space); None keeps every pair.

    Returns:
        The pairs kept, and those dropped, with `reason`: `length_ratio`.

    Raises:
        ValueError: If max_ratio is below 1: pairs of equal length would be dropped.
    """
    if max_ratio is not None and not max_ratio >= 1:
        raise ValueError(f"max_ratio must be >= 1 (or null for no cap), got {max_ratio}")
    kept: list[Row] = []
    dropped: list[Row] = []
    for pair in pairs:
        chosen, rejected = (len(pair[side].split()) for side in ("chosen", "rejected"))
        if max_ratio is not None and chosen > max_ratio * rejected:
            dropped.append({**pair, "reason": "length_ratio"})
        else:
            kept.append(pair)
    return kept, dropped
