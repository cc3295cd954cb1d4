import pytest

from lit_vpo.preferences.sharpening import against_clean

PAIR = {"key": "a", "id": "a/reverse-4", "prompt": "P", "chosen": "x then y", "rejected": "y then x", "mode": "dpo"}
PAIR |= {"r": 4, "difficulty": 2 / 3, "perturbation": {"kind": "reverse", "r": 4}, "meta": {"model": "m"}}


def answer(response, key="a", prompt="P", finished=True, perturbation=None):
    row = {"key": key, "prompt": prompt, "response": response, "finished": finished, "perturbation": perturbation}
    return row | {"model": "m", "sampling": {"seed": 5}}


def test_only_the_rejected_answer_changes():
    other = answer(" x and y\n")
    kept, dropped = against_clean([PAIR], [answer("x then y"), other])
    author = {"model": "m", "sampling": {"seed": 5}}
    assert kept == [PAIR | {"rejected": "x and y", "meta": {"model": "m", "rejected_by": author}}] and not dropped


def test_released_form_is_asked_by_lists_and_stands_for_another_question():
    listed = answer("x and y", prompt="- Caption 1: x") | {"meta": {"asked": "P"}}
    assert against_clean([PAIR], [listed])[0][0]["rejected"] == "x and y"


def test_rows_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="1 rows are no pairs with id and prompt, the first about a"):
        against_clean([PAIR | {"chosen": None}], [answer("b")])


def test_every_other_answer_is_drawn_for_some_pair_whatever_their_neighbours():
    answers = [answer(text) for text in ("x then y", "b", "c", "d")]
    pairs = [PAIR | {"id": f"a/{number}"} for number in range(60)]
    kept, _ = against_clean(pairs, answers, seed=1)
    assert {pair["rejected"] for pair in kept} == {"b", "c", "d"}
    assert against_clean(pairs[-1:], answers, seed=1)[0] == kept[-1:]


def test_pairs_without_another_clean_answer_are_named():
    useless = [answer("u", prompt="Q"), answer("cut", finished=False), answer("z", perturbation={"kind": "drop"})]
    useless += [answer(" "), answer("b", key="b")]
    assert against_clean([PAIR], useless) == ([], [PAIR | {"reason": "no_clean_answer"}])
    assert against_clean([PAIR], [*useless, answer("x then y")]) == ([], [PAIR | {"reason": "equal"}])
