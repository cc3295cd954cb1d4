"""Pairs by difficulty and kind, against numbers worked by hand."""

import pytest
import torch

from lit_vpo.metrics import DifficultyMetrics, group_of

GROUPS = [(2, "drop"), (16, "drop"), (16, "reverse"), (8, "")]


def values(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def test_by_hand():
    metric = DifficultyMetrics(GROUPS)
    assert metric.compute() == {}
    metric.update([(16, "drop"), (16, "reverse")], torch.tensor([1.0, -3.0]))
    metric.update([(16, "reverse"), (8, "")], torch.tensor([2.0, 0.0]))
    assert values(metric) == pytest.approx(
        {
            "r16/share": 0.75,
            "r16/rewards/accuracies": 2 / 3,
            "r16/rewards/margins": 0.0,
            "r16/drop/share": 0.25,
            "r16/drop/rewards/accuracies": 1.0,
            "r16/drop/rewards/margins": 1.0,
            "r16/reverse/share": 0.5,
            "r16/reverse/rewards/accuracies": 0.5,
            "r16/reverse/rewards/margins": -0.5,
            "r8/share": 0.25,
            "r8/rewards/accuracies": 0.0,  # a tie is not won
            "r8/rewards/margins": 0.0,
            "r2/share": 0.0,
            "r2/drop/share": 0.0,
        }
    )
    metric.reset()
    assert metric.compute() == {}


def test_the_group_of_a_record():
    assert group_of({"r": 4, "perturbation": {"kind": "drop", "r": 4}}) == (4, "drop")
    assert group_of({"r": 4, "perturbation": None}) == group_of({"r": 4}) == (4, "")
    assert group_of({"prompt": "x"}) is None
