"""Clean against clean: a control of TEMPO whose pairs hold no perturbation, so that all they can do is sharpen."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

from lit_vpo.randomness import seed_of

from .pairs import asked_about

Row: TypeAlias = dict[str, Any]


def against_clean(pairs: Sequence[Row], answers: Sequence[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """The same pairs with rejected replaced by another answer to the clean video.

    Videos, questions, chosen answers, r and kind of perturbation stay (so that a curriculum has the same stages); only
    what r and kind did to the rejected answer is gone.

    Args:
        pairs: Overlay rows with `id`, `key`, `prompt` and `chosen`.
        answers: Rows of `predict` for the same questions about the clean videos (released form: clean lists), any
            number to each.
        seed: With the pair's id the address of the draw among the answers that differ from chosen.

    Returns:
        Pairs with the author of the new answer in `meta.rejected_by`, and those left out, with `reason`:
        `no_clean_answer` (that is finished) or `equal` (all are chosen's text).

    Raises:
        ValueError: If a row is no pair with an id and a prompt.
    """
    fields = ("id", "prompt", "chosen", "rejected")
    if wrong := [pair for pair in pairs if not all(isinstance(pair.get(name), str) for name in fields)]:
        raise ValueError(f"{len(wrong)} rows are no pairs with id and prompt, the first about {wrong[0]['key']}")
    asked: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in answers:
        if row["finished"] and row.get("perturbation") is None and row["response"].strip():
            asked[row["key"], asked_about(row)].append(row)
    kept, dropped = [], []
    for pair in pairs:
        found = asked[pair["key"], pair["prompt"]]
        others = [row for row in found if row["response"].strip() != pair["chosen"].strip()]
        if not others:
            dropped.append({**pair, "reason": "equal" if found else "no_clean_answer"})
            continue
        other = others[seed_of(seed, "against_clean", pair["id"]) % len(others)]
        author = {"model": other.get("model"), "sampling": other.get("sampling")}
        meta = {**pair.get("meta", {}), "rejected_by": author}
        kept.append({**pair, "rejected": other["response"].strip(), "meta": meta})
    return kept, dropped
