"""Whose answers pairs are: the policy's own, or on purpose another's."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def check_writers(rows: Iterable[Mapping[str, Any]], policy_hash: Callable[[], str], other_policy: bool) -> str:
    """Compare the policies that wrote pairs (``meta.model`` of ``predict``'s rows) with the one that learns from them.

    Args:
        rows: Training rows; those that name no hash (public data, questions) pass.
        policy_hash: Of the policy under training; called only where rows name one.
        other_policy: Allow any.

    Returns:
        How many pairs are whose, for the log.

    Raises:
        ValueError: Another policy wrote some, and ``other_policy`` is off.

    """
    writers = Counter(_writer(row) for row in rows)
    own = policy_hash() if any(digest for _, digest in writers) else ""
    others = [
        f"{count} of {name} ({digest[:12]})" for (name, digest), count in writers.items() if digest not in ("", own)
    ]
    if others and not other_policy:
        raise ValueError(
            f"training rows hold answers of another policy: {', '.join(others)}; the one trained here is {own[:12]}. "
            "Sample them anew with predict (same model, adapter, init_from and dtype), or set data.other_policy: true"
        )
    known = sum(count for (_, digest), count in writers.items() if digest == own and digest)
    unknown = sum(count for (_, digest), count in writers.items() if not digest)
    return f"answers of the training rows: {known} of this policy, {', '.join([*others, f'{unknown} of nobody named'])}"


def _writer(row: Mapping[str, Any]) -> tuple[str, str]:
    """Name and hash of the policy that a row names; empty where it names none."""
    model = (row.get("meta") or {}).get("model")
    if not isinstance(model, Mapping):
        return "", ""
    return str(model.get("name") or ""), str(model.get("hash") or "")
