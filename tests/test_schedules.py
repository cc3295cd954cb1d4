"""Schedules against numbers worked by hand, and through a real optimizer."""

import pytest
import torch

from lit_vpo.optim import param_groups, scheduled
from lit_vpo.schedules import warmup_then


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
