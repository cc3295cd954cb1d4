import pytest

from lit_vpo.preferences.length_cap import cap_length_ratio


def pair(chosen, rejected):
    return {"id": f"{chosen}/{rejected}", "chosen": "word " * chosen, "rejected": "word " * rejected}


PAIRS = [pair(3, 2), pair(4, 2), pair(2, 9), pair(1, 0)]


def test_chosen_answers_over_the_cap_are_dropped_with_the_reason_and_short_ones_never():
    kept, dropped = cap_length_ratio(PAIRS, 1.5)
    assert kept == [PAIRS[0], PAIRS[2]]
    assert dropped == [{**row, "reason": "length_ratio"} for row in (PAIRS[1], PAIRS[3])]


def test_no_cap_keeps_all_and_a_cap_below_one_is_refused():
    assert cap_length_ratio(PAIRS, None) == (PAIRS, [])
    with pytest.raises(ValueError, match="max_ratio must be >= 1"):
        cap_length_ratio(PAIRS, 0.9)
