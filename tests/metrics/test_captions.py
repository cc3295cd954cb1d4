import math

import pytest
import torch

from lit_vpo.metrics import CaptionCounts, CaptionErrors, caption_errors

GOOD = CaptionCounts(4, 1, 0, 1, 1, 3, 4, 0, 20, 0)
BAD = CaptionCounts(2, 0, 1, 2, 0, 0, 6, 2, 40, 10)
# sums over sums: 6 events; missed 1, incorrect 1, hallucinated 3
EXPECTED = {
    "event_error/total": 5 / 6,
    "event_error/missed": 1 / 6,
    "event_error/incorrect": 1 / 6,
    "event_error/hallucinated": 3 / 6,
    "order_error": 1 / 3,
    "repetition": 0.5,
    "num_words": 30.0,
    "unsupported_words": 5.0,
}


def test_hand_worked_counts_and_class_equals_function():
    metric = CaptionErrors()
    metric.update(GOOD)
    metric.update(BAD)
    for values in (caption_errors([GOOD, BAD]), metric.compute()):
        assert {name: pytest.approx(float(value)) for name, value in values.items()} == EXPECTED
        assert all(value.dtype == torch.float32 for value in values.values())


def test_two_ranks_add_up():
    one, two = CaptionErrors(), CaptionErrors()
    one.update(GOOD)
    two.update(BAD)
    two.update(BAD)
    one.totals = one._reductions["totals"](torch.stack([one.totals, two.totals]))
    whole = caption_errors([GOOD, BAD, BAD])
    assert {name: float(value) for name, value in one.compute().items()} == {n: float(v) for n, v in whole.items()}


def test_undefined_ratios_are_nan_not_zero():
    values = caption_errors([BAD])
    assert math.isnan(float(values["order_error"]))
    assert float(values["event_error/total"]) == 1.5
    assert all(math.isnan(float(value)) for value in caption_errors([]).values())


def test_reset_forgets():
    metric = CaptionErrors()
    metric.update(BAD)
    metric.reset()
    metric.update(GOOD)
    assert float(metric.compute()["repetition"]) == 0.0
