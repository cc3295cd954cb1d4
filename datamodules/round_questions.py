"""Question pairs among the pairs of the last rounds: when, how many, and which."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .order import permutation
from .responses import check_texts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuestionMix:
    """Pairs of answers to questions, mixed into the pairs of later rounds.

    Attributes:
        overlay: They; on videos of the training shards, such as ``pairs questions`` writes.
        share: Part of a round's rows that they make up.
        from_round: Rounds that have ended when they come in: 5 mixes them into ``rounds/5``, on which the sixth round
            trains, and into those after it.

    Raises:
        ValueError: A share outside (0, 1), or a round below 1.

    """

    overlay: str
    share: float = 0.25
    from_round: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.from_round < 1:
            raise ValueError(
                "questions need a share in (0, 1) and from_round >= 1 (what the first round trains on is data.train), "
                f"got {self.share} and {self.from_round}"
            )

    def draw(self, rows: Sequence[dict[str, Any]], num_pairs: int, seed: int, round_index: int) -> list[dict[str, Any]]:
        """Their share beside a round's pairs, drawn by seed and round.

        Args:
            rows: All of them, with ids.
            num_pairs: Pairs that the round has already, over all ranks.
            seed: The run's.
            round_index: Rounds that have ended.

        """
        if round_index < self.from_round:
            return []
        wanted = round(num_pairs * self.share / (1 - self.share))
        if wanted > len(rows):
            log.warning("round %d: its share of questions is %d, there are %d", round_index, wanted, len(rows))
        drawn = sorted(permutation(len(rows), seed, "questions", round_index)[:wanted].tolist())
        return [{**rows[n], "id": f"{rows[n]['id']}/round-{round_index}", "round": round_index} for n in drawn]


def check_question_pairs(rows: Sequence[dict[str, Any]], with_ground_truth: bool, num_negatives: int) -> None:
    """Refuse rows that do not hold all texts of a pair themselves: the sample's caption is no answer to a question.

    Raises:
        ValueError: It names the row.

    """
    for row in rows:
        try:
            check_texts({**row, "mode": "dpo"}, "preference", with_ground_truth, num_negatives)
        except ValueError as error:
            raise ValueError(
                f"data.questions, row {row['id']}: {error}; such pairs are made by: python -m lit_vpo pairs questions"
            ) from error
