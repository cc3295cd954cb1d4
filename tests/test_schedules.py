"""Schedules against numbers worked by hand, and through a real optimizer."""

import pytest
import torch

from lit_vpo.optim import param_groups, scheduled
from lit_vpo.schedules import RoundPlan, warmup_in_rounds, warmup_then


def values(shape, warmup, steps):
    factor = warmup_then(shape, warmup, steps)
    return [round(factor(step), 6) for step in range(steps + 1)]


def test_shapes_by_hand():
    assert values("constant", 2, 4) == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert values("linear", 2, 6) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert values("cosine", 0, 4) == [1.0, 0.853553, 0.5, 0.146447, 0.0]
    assert warmup_then("linear", 0, 4)(9) == 0.0
    assert warmup_then("constant", 3, -1)(100) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", 0, 10), "schedule must be one of"),
        (("cosine", 0, -1), "set trainer.max_steps"),
        (("linear", 10, 10), "must be less than trainer.max_steps"),
        (("constant", -1, 10), "warmup_steps must be >= 0"),
    ],
)
def test_impossible_schedules(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_then(*arguments)


def test_rounds_by_hand():
    plan = RoundPlan.of([3, 1, 2])
    assert [plan.at(step).number for step in range(11)] == [0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 5]  # the last number holds
    assert [plan.at(step) for step in (0, 2, 3, 5, 6, 9)] == [
        (0, 0, 3), (0, 0, 3), (1, 3, 4), (2, 4, 6), (3, 6, 8), (4, 8, 10)
    ]  # fmt: skip
    assert RoundPlan.of(2) == RoundPlan.of([2]) and RoundPlan.of(2).at(7) == (3, 6, 8)
    assert [plan.done(steps) for steps in (0, 3, 4, 5, 6, 7)] == [0, 1, 2, 2.5, 3, 3.5]


@pytest.mark.parametrize("steps", [0, [], [2, 0]])
def test_rounds_without_a_step(steps):
    with pytest.raises(ValueError, match="round_steps must be >= 1"):
        RoundPlan.of(steps)


def test_the_schedule_begins_anew_in_every_round():
    factor = warmup_in_rounds("linear", 1, RoundPlan.of([3, 2]))
    assert [factor(step) for step in range(7)] == [1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"warmup_steps \(2\) must be less than .* every round, got 2"):
        warmup_in_rounds("linear", 2, RoundPlan.of([4, 2, 3]))


def test_groups_leave_norms_and_biases_undecayed_and_frozen_out():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 3).requires_grad_(False))
    decay, rest = param_groups(net)
    assert [p.dim() for p in decay["params"]] == [2] and [p.dim() for p in rest["params"]] == [1, 1, 1]
    assert rest["weight_decay"] == 0.0 and "weight_decay" not in decay
    with pytest.raises(ValueError, match="no parameter is trainable"):
        param_groups(net.requires_grad_(False))


def test_optimizer_sees_the_schedule():
    parameter = torch.nn.Parameter(torch.zeros(1, 1))
    made = scheduled(torch.optim.SGD([parameter], lr=2.0), "linear", 1, 3)
    rates = []
    for _ in range(3):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == [2.0, 2.0, 1.0] and made["lr_scheduler"]["interval"] == "step"
