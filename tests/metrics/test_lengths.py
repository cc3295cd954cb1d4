import math

import pytest

from lit_vpo.metrics import word_lengths


def test_eleven_lengths_from_10_to_20():
    texts = [" ".join(["word"] * n) for n in range(20, 9, -1)]  # quantiles of 10..20 fall on 11 and 19
    values = {name: float(value) for name, value in word_lengths(texts).items()}
    assert values == {"mean": 15.0, "p10": 11.0, "p90": 19.0, "spread": pytest.approx(19 / 11)}


def test_white_space_of_any_kind_parts_words():
    assert float(word_lengths(["  one\ttwo\n three. "])["mean"]) == 3


def test_spread_over_empty_texts_is_infinite_and_no_text_is_refused():
    assert math.isinf(float(word_lengths(["", "", "", "a b"])["spread"]))
    with pytest.raises(ValueError, match="at least one"):
        word_lengths([])
