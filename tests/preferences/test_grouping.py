"""TEMPO's S4 and S5: groups worked by hand, and an agglomeration written another way as oracle."""

from dataclasses import replace

import numpy as np
import pytest

from lit_vpo.preferences.grouping import check_groups, merge_items, merged_groups
from lit_vpo.preferences.selection_rules import NotSelected, SelectionRules

RULES = SelectionRules()


def symmetric(n, pairs, rest=0.0):
    rows = np.full((n, n), rest)
    np.fill_diagonal(rows, 1.0)
    for (i, j), value in pairs.items():
        rows[i, j] = rows[j, i] = value
    return rows


def test_the_threshold_is_strict():
    rows = symmetric(3, {(0, 2): 0.75})
    assert merge_items(rows, 0.75) == [[0], [1], [2]]
    assert merge_items(rows, 0.7499) == [[0, 2], [1]]


def test_a_merged_row_is_the_average_of_two():
    # 0 and 1 merge first; to 2 the pair is then (0.875 + 0.625) / 2 = 0.75, although 0 alone is nearer
    rows = symmetric(3, {(0, 1): 0.95, (0, 2): 0.875, (1, 2): 0.625})
    assert merge_items(rows, 0.75) == [[0, 1], [2]]
    assert merge_items(rows, 0.74) == [[0, 1, 2]]


def test_the_average_is_plain_whatever_the_groups_sizes():
    # {0, 1} then {0, 1, 2}; to 3: (1 + 0.5) / 2 = 0.75, then (0.75 + 0.25) / 2 = 0.5; weighted by size it were 0.583
    pairs = {(0, 1): 0.99, (0, 2): 0.98, (1, 2): 0.98, (0, 3): 1.0 - 0.05, (1, 3): 0.55, (2, 3): 0.25}
    rows = symmetric(4, pairs)
    assert merge_items(rows, 0.5) == [[0, 1, 2], [3]]
    assert merge_items(rows, 0.49) == [[0, 1, 2, 3]]


def test_the_matrix_given_stays_as_it_is():
    rows = symmetric(3, {(0, 1): 0.9})
    before = rows.copy()
    merge_items(rows, 0.8)
    assert (rows == before).all()


def test_a_matrix_that_is_symmetric_but_for_rounding_is_grouped_alike():
    rows = symmetric(3, {(0, 1): 0.5, (1, 2): 0.9})
    rows[2, 1] = np.nextafter(0.9, 1)  # now the greatest entry stands below the diagonal
    assert merge_items(rows, 0.8) == [[0], [1, 2]]


def oracle(similarity, threshold):
    """The same merging on dicts of frozen sets."""
    names = [frozenset([item]) for item in range(len(similarity))]
    near = {frozenset([a, b]): similarity[min(a)][min(b)] for a in names for b in names if a != b}
    while near and max(near.values()) > threshold:
        a, b = max(near, key=near.__getitem__)
        new = a | b
        others = {name for pair in near for name in pair} - {a, b}
        averages = {c: (near[frozenset([a, c])] + near[frozenset([b, c])]) / 2 for c in others}
        near = {pair: value for pair, value in near.items() if not pair & {a, b}}
        near |= {frozenset([new, c]): value for c, value in averages.items()}
        names = [name for name in names if name not in (a, b)] + [new]
    return sorted(sorted(name) for name in names)


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_those_of_another_implementation(seed):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.5, 1.0, (12, 12))
    rows = (rows + rows.T) / 2
    assert merge_items(rows, 0.8) == oracle(rows, 0.8)


def test_consecutive_shots_of_a_group_are_joined():
    groups = [[0, 1, 4], [2], [3, 5, 6]]
    assert merged_groups(groups) == [(0, [0, 1]), (1, [2]), (2, [3]), (0, [4]), (2, [5, 6])]


def merged(word):
    return [(ord(letter), [place]) for place, letter in enumerate(word)]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("abc", "few_groups"),
        ("abcd", None),
        ("abca", "repetitive"),  # 2 > 4 // 3
        ("abcade", None),  # 2 of 6
        ("abacad", "repetitive"),  # 3 > 6 // 3
        ("abacadefg", None),  # 3 of 9
        ("abacadaefghi", "repetitive"),  # 4 of 12 are not more than a third, yet four
    ],
)
def test_a_group_may_be_a_third_of_the_merged_groups_and_three_times_at_most(word, reason):
    if reason is None:
        check_groups(merged(word), RULES)
    else:
        with pytest.raises(NotSelected) as refusal:
            check_groups(merged(word), RULES)
        assert refusal.value.reason == reason


def test_the_numbers_of_the_repetition_rule_are_arguments():
    check_groups(merged("abc"), replace(RULES, min_merged_groups=3))
    check_groups(merged("abca"), replace(RULES, occurrence_share=2))
    check_groups(merged("abacadaefghi"), replace(RULES, max_occurrences=4))
