from collections import Counter
from itertools import chain

import pytest
import torch

from lit_vpo.datamodules.plan import EpochPlan


def test_an_epoch_is_a_pure_function_of_its_arguments():
    plan = EpochPlan(10, 3, seed=7, data="a/b")
    torch.manual_seed(1)
    first = plan.batches(2)
    torch.manual_seed(2)
    assert plan.batches(2) == first == EpochPlan(10, 3, seed=7, data="a/b").batches(2)
    assert [len(batch) for batch in first] == [3, 3, 3, 1] and plan.num_batches == 4
    assert Counter(chain.from_iterable(first)) == Counter(range(10))


def test_seed_epoch_and_data_each_change_the_order():
    orders = [
        EpochPlan(50, 5, seed, data=data).batches(epoch) for seed in (0, 1) for data in ("a", "b") for epoch in (0, 1)
    ]
    assert len({str(order) for order in orders}) == 8


def test_the_order_is_the_same_on_every_machine():
    assert EpochPlan(8, 4).batches(0) == [[6, 2, 5, 4], [7, 1, 3, 0]]


def test_without_shuffle_rows_keep_their_order():
    assert EpochPlan(5, 2, shuffle=False).batches(3) == [[0, 1], [2, 3], [4]]


def test_spares_belong_to_their_slot():
    plan = EpochPlan(1000, 2)
    assert plan.spares(0, 1) == plan.spares(0, 1)
    assert len({str(plan.spares(epoch, batch)) for epoch in (0, 1) for batch in (0, 1)}) == 4
    assert all(0 <= row < 1000 for row in plan.spares(0, 0))


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (3, -1)])
def test_empty_plans_are_refused(numbers):
    with pytest.raises(ValueError, match="must be >= 1"):
        EpochPlan(*numbers)


def test_rows_of_one_video_stand_together_and_each_row_once():
    videos = [f"v{row % 5}" for row in range(23)]  # five rows of v0 to v2, four of v3 and v4
    plan = EpochPlan(23, 4, rows_per_video=2, videos=videos)
    order = list(chain.from_iterable(plan.batches(0)))
    assert Counter(order) == Counter(range(23))
    hands = [order[i : i + 2] for i in range(0, 20, 2)]  # two full hands of each video, three rows left over
    assert Counter(videos[hand[0]] for hand in hands) == {f"v{n}": 2 for n in range(5)}
    assert all(videos[a] == videos[b] for a, b in hands)
    assert plan.batches(0) != plan.batches(1)


def test_rows_per_video_needs_the_videos():
    with pytest.raises(ValueError, match="rows_per_video"):
        EpochPlan(4, 2, rows_per_video=2)
    with pytest.raises(ValueError, match="rows_per_video"):
        EpochPlan(4, 2, rows_per_video=0)
