"""Question pairs by hand: the right option against a wrong one, and why a question gives no pair."""

import pytest

from lit_vpo.preferences.questions import question_pairs

OPTIONS = ["red", "blue", "green", "white"]


def question(number, right="red", options=OPTIONS, **more):
    return {
        "key": "k",
        "id": f"q{number}",
        "prompt": "Which?",
        "ground_truth": right,
        "meta": {"options": options},
    } | more


def test_right_against_wrong():
    pairs, dropped = question_pairs([question(0, options=["blue", "red"], mode="sft")])
    assert pairs == [
        question(0, options=["blue", "red"], mode="dpo", chosen="red", rejected="blue") | {"id": "q0/pair"}
    ]
    assert dropped == []


def test_the_wrong_one_is_drawn_by_seed_and_question_alone():
    rows = [question(number) for number in range(40)]
    pairs, _ = question_pairs(rows)
    assert {pair["rejected"] for pair in pairs} == {"blue", "green", "white"}
    assert question_pairs(rows[7:9])[0] == pairs[7:9]
    assert question_pairs(rows, seed=1)[0] != pairs


@pytest.mark.parametrize(
    "row, reason",
    [
        (question(0, options=["red"]), "no_wrong_option"),
        (question(0, options=[]), "no_wrong_option"),
        (question(0) | {"meta": None}, "no_wrong_option"),
        (question(0, right="black"), "no_right_option"),
        (question(0, right=None), "no_right_option"),
    ],
)
def test_why_a_question_gives_no_pair(row, reason):
    assert question_pairs([row]) == ([], [{"id": "q0", "key": "k", "reason": reason}])
