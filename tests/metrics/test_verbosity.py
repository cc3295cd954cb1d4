"""Verbosity by hand: every number of a round's verdicts."""

import math

import pytest
import torch

from lit_vpo.metrics import per_clip, unsupported_words, verbosity_metrics
from lit_vpo.metrics.verbosity import repeats

TRUTH = {"ground_truth": "A red star spins.", "events": [{"text": "the red star grows", "start_s": 0, "end_s": 1}]}


@pytest.fixture
def rows(make_verdict):
    return [
        # 4 words against 2, both orders name answer 2: first place once
        make_verdict("a", ["a star", "A red star grows."], (2, 2), **TRUTH),
        # 3 against 6; "blue" and "box" have no support, and it says a sentence twice
        make_verdict("b", ["Blue box. blue  box.", "a b c d e f"], (1, 1), **TRUTH),
        make_verdict("c", ["one two", "two one"], (1, 1)),  # as long, truth unknown
        make_verdict("d", ["one", "two"], (1, 2)),  # always the first place
        make_verdict("e", ["one", "two"], (1, None)),
        make_verdict("f", ["one", "one"], (None, None), "equal"),
        make_verdict("g", ["one", ""], (None, None), "empty"),
        make_verdict("h", ["one", "two"], (None, None), "unfinished"),  # dropped before judging
        make_verdict("i", ["one", "two"], (2, 2), "unfinished"),  # and after
    ]


def test_every_number_of_nine_verdicts(rows):
    expected = {
        "verdicts": 9,
        "pairs": 3,
        "chosen_words": (4 + 4 + 2) / 3,
        "rejected_words": (2 + 6 + 2) / 3,
        "length_ratio": (4 / 2 + 4 / 6 + 1) / 3,
        "longer_wins": 1 / 2,
        "equal_lengths": 1 / 3,
        "unsupported_words": (0 + 4) / 2,
        "repetition": 1 / 3,
        "parse_rate": 11 / 12,
        "order_consistency": 4 / 5,
        "first_place": (1 + 1 + 1 + 2 + 1 + 1) / 11,
    }
    assert verbosity_metrics(rows) == pytest.approx(expected)


def test_rows_of_two_ranks_in_any_order_give_the_same(rows):
    assert verbosity_metrics(rows[::2] + rows[1::2]) == pytest.approx(verbosity_metrics(rows))


def test_nothing_is_nan_and_an_empty_rejected_answer_is_infinitely_shorter(make_verdict):
    values = verbosity_metrics([])
    assert values.pop("verdicts") == values.pop("pairs") == 0 and all(map(math.isnan, values.values()))
    assert verbosity_metrics([make_verdict("a", ["word", ""])])["length_ratio"] == math.inf
    assert math.isnan(verbosity_metrics([make_verdict("a", ["one", "two"])])["unsupported_words"])


def test_a_judge_that_always_says_the_first_place(make_verdict):
    values = verbosity_metrics([make_verdict(str(n), ["one", "two"], (1, 2)) for n in range(5)])
    assert (values["first_place"], values["order_consistency"], values["pairs"]) == (1, 0, 0)


def test_words_without_support_are_counted_each_time():
    assert unsupported_words("The RED star's red, re-grown star grows; grows.", TRUTH) == 2  # "star's" and "re-grown"
    assert unsupported_words("spins", {"events": TRUTH["events"]}) == 1
    assert unsupported_words("a a", {"ground_truth": ""}) == 2
    assert unsupported_words("a", {"ground_truth": None, "meta": {}}) is None


def test_support_comes_from_the_interval_that_was_asked_about():
    events = [{"text": "star spins", "start_s": 0, "end_s": 1}, {"text": "box falls", "start_s": 2, "end_s": 3}]
    record = {"events": events, "meta": {"interval": [2, 4]}}
    assert unsupported_words("star falls", record) == 1
    assert unsupported_words("star falls", {"events": events}) == 0


@pytest.mark.parametrize(
    "text, says", [("A star. A box.", False), ("A star; a  STAR!", True), ("...", False), ("", False)]
)
def test_sentences_that_stand_twice(text, says):
    assert repeats(text) is says


def test_rows_of_a_clip_are_summed():
    tops, bottoms = per_clip(["b", "a", "b"], [(1, 2), (3, 4), (5, 6)])
    assert torch.equal(tops, torch.tensor([6.0, 3.0], dtype=torch.float64)) and bottoms.tolist() == [8, 4]
