"""Pairs from questions with options: the right answer against a wrong one (video-SALMONN 2's last round)."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from lit_vpo.randomness import seed_of

Row: TypeAlias = dict[str, Any]


def question_pairs(questions: Sequence[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """One pair of each question.

    Args:
        questions: Overlay rows with `prompt`, `ground_truth` and `meta.options`.
        seed: With the question's id the address of the draw among its wrong options.

    Returns:
        Pairs, as overlay rows, and questions without one: {id, key, reason}, the reason `no_wrong_option` or
        `no_right_option`.
    """
    pairs: list[Row] = []
    dropped: list[Row] = []
    for row in questions:
        right, name = row.get("ground_truth"), row.get("id") or row["key"]
        options = (row.get("meta") or {}).get("options") or []
        wrong = [option for option in options if option != right]
        if not wrong or right not in options:
            reason = "no_right_option" if wrong else "no_wrong_option"
            dropped.append({"id": name, "key": row["key"], "reason": reason})
            continue
        rejected = wrong[seed_of(seed, "question_pairs", name) % len(wrong)]
        pairs.append({**row, "id": f"{name}/pair", "chosen": right, "rejected": rejected, "mode": "dpo"})
    return pairs, dropped
