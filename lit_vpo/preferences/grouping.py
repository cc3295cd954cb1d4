"""Groups of shots that look alike, and the rule for videos that repeat themselves (TEMPO's S4 and S5)."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .selection_rules import NotSelected, SelectionRules

MergedGroup: TypeAlias = tuple[int, list[int]]
"""A group's number, and consecutive shots that belong to it: a group that comes back is several of these."""


def merge_items(similarity: npt.NDArray[Any], merge_above: float) -> list[list[int]]:
    """Agglomerative groups: the two most similar items become one while their similarity is above the threshold.

    The new item's similarities are the plain average of the two rows, whatever their groups' sizes (WPGMA). Of equally
    similar pairs the first is taken.

    Args:
        similarity: (N, N) float, symmetric; the diagonal is not read.
        merge_above: Strict threshold.

    Returns:
        Groups of item numbers, each ascending, in the order of their first items. A group need not be contiguous.
    """
    # a product of features with themselves is symmetric but for its rounding
    rows = (np.asarray(similarity, np.float64) + np.transpose(similarity)) / 2
    np.fill_diagonal(rows, -np.inf)
    groups = [[item] for item in range(len(rows))]
    while len(groups) > 1:
        first, second = np.unravel_index(rows.argmax(), rows.shape)  # first < second: the matrix is symmetric
        if not rows[first, second] > merge_above:
            break
        rows[first] = rows[:, first] = (rows[first] + rows[second]) / 2
        rows[first, first] = -np.inf
        rows = np.delete(np.delete(rows, second, 0), second, 1)
        groups[first] = sorted(groups[first] + groups.pop(second))
    return sorted(groups)


def merged_groups(groups: Sequence[Sequence[int]]) -> list[MergedGroup]:
    """The run-length encoding of groups over time: consecutive shots of one group are joined.

    Args:
        groups: Shot numbers of each group; each shot stands in one of them.
    """
    group_of = {shot: number for number, shots in enumerate(groups) for shot in shots}
    return [(number, list(shots)) for number, shots in groupby(sorted(group_of), group_of.__getitem__)]


def check_groups(merged: Sequence[MergedGroup], rules: SelectionRules) -> None:
    """The rule for a video by its merged groups: enough of them, and none that keeps coming back (S5).

    Args:
        merged: From `merged_groups`.
        rules: The numbers.

    Raises:
        NotSelected: `few_groups` or `repetitive`.
    """
    if len(merged) < rules.min_merged_groups:
        raise NotSelected("few_groups", f"{len(merged)} merged groups, at least {rules.min_merged_groups} are needed")
    most = max(Counter(number for number, _ in merged).values())
    allowed = min(len(merged) // rules.occurrence_share, rules.max_occurrences)
    if most > allowed:
        raise NotSelected("repetitive", f"a group is {most} of {len(merged)} merged groups, at most {allowed} may be")
