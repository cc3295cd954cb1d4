"""Agreement by hand: accuracy and Cohen's kappa of two by two tables, and what counts as a tie."""

import math

import pytest
import torch

from lit_vpo.metrics import CaptionCounts, bootstrap_ratio
from lit_vpo.preferences.agreement import Choices, agreement, exact_choices, length_matched


def table(both_1, only_judge_1, only_other_1, both_2, ties=0):
    cells = [(1, 1)] * both_1 + [(1, 2)] * only_judge_1 + [(2, 1)] * only_other_1 + [(2, 2)] * both_2
    return [Choices(f"clip-{n}", *cell, True) for n, cell in enumerate(cells + [(1, 0)] * ties)]


@pytest.mark.parametrize(
    "cells, accuracy, kappa",
    [
        # 0.7 seen; by chance 25/50 * 30/50 + 25/50 * 20/50 = 0.5: (0.7 - 0.5) / (1 - 0.5)
        ((20, 5, 10, 15), 0.7, 0.4),
        # 0.6 seen; by chance 70/100 * 60/100 + 30/100 * 40/100 = 0.54
        ((45, 25, 15, 15), 0.6, (0.6 - 0.54) / 0.46),
        ((3, 0, 0, 2), 1.0, 1.0),
        ((0, 2, 2, 0), 0.0, -1.0),
    ],
)
def test_accuracy_and_kappa_of_a_table(cells, accuracy, kappa):
    found = agreement(table(*cells, ties=3))
    assert found.accuracy.estimate == pytest.approx(accuracy) and found.kappa == pytest.approx(kappa, abs=1e-6)
    assert (found.num_pairs, found.num_tied, found.num_clips) == (sum(cells) + 3, 3, sum(cells))


def test_a_judge_that_always_says_one_side_has_no_agreement_beyond_chance():
    assert agreement(table(7, 3, 0, 0)).kappa == pytest.approx(0)
    assert math.isnan(agreement(table(7, 0, 0, 0)).kappa)  # nor has anybody told them apart


def test_pairs_of_one_clip_are_resampled_together():
    choices = [Choices("a", 1, 1, True), Choices("a", 1, 1, True), Choices("b", 1, 2, True)]
    by_clip = bootstrap_ratio(torch.tensor([2.0, 0.0]), torch.tensor([2.0, 1.0]), seed=5)
    assert agreement(choices, seed=5).accuracy == by_clip


def test_ties_alone_leave_everything_undefined():
    found = agreement(table(0, 0, 0, 0, ties=4))
    assert (found.num_pairs, found.num_tied, found.num_clips) == (4, 4, 0)
    assert math.isnan(found.accuracy.estimate) and math.isnan(found.kappa)


def scorer(caption, record):
    """Every "no" is a hallucination, every "not" missed, every "wrong" incorrect."""
    words = caption.split()
    return CaptionCounts(3, words.count("not"), words.count("wrong"), words.count("no"), 0, 0, 1, 0, len(words), 0)


def test_the_exact_judge_prefers_fewer_errors_of_any_kind(make_verdict):
    rows = [
        make_verdict("a", ["no not", "wrong"], (1, 1)),
        make_verdict("b", ["yes", "wrong wrong"], (1, 1)),
        make_verdict("c", ["no", "not"], (2, 2)),
        make_verdict("d", ["no", "yes"], (1, 2)),  # no choice
    ]
    assert exact_choices(rows, scorer) == [
        Choices("a", 1, 2, False),
        Choices("b", 1, 1, False),
        Choices("c", 2, 0, True),
    ]


def test_the_right_answer_to_a_question_is_the_better_one(make_verdict):
    asked = {"ground_truth": "the red square", "meta": {"options": ["the red square", "the blue circle"]}}
    rows = [
        make_verdict("a", ["The red square.", "the blue circle"], (2, 2), **asked),
        make_verdict("b", ["the red circle", "the red square"], (2, 2), **asked),
        make_verdict("c", ["the red circle", "the blue circle"], (2, 2), **asked),  # both are wrong
    ]
    found = exact_choices(rows, scorer)  # which would count no error in any of them
    assert [(each.judge, each.other) for each in found] == [(2, 1), (2, 2), (2, 0)]


@pytest.mark.parametrize("counts, matched", [((10, 11), True), ((11, 10), True), ((10, 12), False), ((0, 0), True)])
def test_ten_per_cent_of_words_apart_is_matched(counts, matched):
    assert length_matched(*("word " * n for n in counts)) is matched
