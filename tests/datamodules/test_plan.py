from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from lit_vpo.datamodules.batching import Lengths, cut_by_tokens, split_to
from lit_vpo.datamodules.plan import EpochPlan


def rows_of(plan, epoch=0):
    return list(chain.from_iterable(plan.batches(epoch)))


def lengths(count, seed=0, visual=(100, 900), text=(20, 200)):
    draw = np.random.default_rng(seed)
    return Lengths(draw.integers(*visual, count), draw.integers(*text, count))


def test_an_epoch_is_a_pure_function_of_its_arguments():
    plan = EpochPlan(10, 3, seed=7, data="a/b", world_multiple=1)
    torch.manual_seed(1)
    first = list(plan.batches(2))
    torch.manual_seed(2)
    again = EpochPlan(10, 3, seed=7, data="a/b", world_multiple=1)
    assert list(plan.batches(2)) == first == list(again.batches(2))
    assert [len(batch) for batch in first] == [3, 3, 3, 1] and plan.num_batches == 4
    assert Counter(chain.from_iterable(first)) == Counter(range(10))


def test_seed_epoch_and_data_each_change_the_order():
    orders = [
        list(EpochPlan(50, 5, seed, data=data).batches(epoch))
        for seed in (0, 1)
        for data in ("a", "b")
        for epoch in (0, 1)
    ]
    assert len({str(order) for order in orders}) == 8


def test_the_order_is_the_same_on_every_machine():
    assert list(EpochPlan(8, 4, world_multiple=1).batches(0)) == [[6, 2, 5, 4], [7, 1, 3, 0]]
    windows = EpochPlan(8, 4, world_multiple=2, window=4, slice_rows=2, shards=np.arange(8) // 4)
    assert list(windows.batches(0)) == [[4, 3, 5, 2], [6, 1, 0, 7]]


def test_without_shuffle_rows_keep_their_order():
    assert list(EpochPlan(5, 2, shuffle=False).batches(3)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("num_rows", [8, 9, 12, 23, 64, 65, 100])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
@pytest.mark.parametrize("tokens", [None, 1500])
def test_an_epoch_is_padded_by_halving_batches_so_that_no_row_repeats_and_none_is_lost(num_rows, batch_size, tokens):
    plan = EpochPlan(num_rows, batch_size, tokens_per_batch=tokens, lengths=lengths(num_rows))
    for epoch in range(3):
        batches = plan.batches(epoch)
        count = Counter(chain.from_iterable(batches))
        assert len(batches) == plan.num_batches and plan.num_batches % 8 == 0
        assert all(batches) and set(count.values()) == {1} and set(count) <= set(range(num_rows))
        assert len(count) + batches.num_unused == num_rows
        if tokens is None and batch_size > 1 and num_rows > 15:
            assert batches.num_unused == 0  # only single rows, which cannot be halved, leave a tail


def test_the_latest_of_the_largest_batches_are_halved():
    assert split_to(np.array([4, 4, 4, 1]), 6).tolist() == [4, 2, 2, 2, 2, 1]
    assert split_to(np.array([5]), 4).tolist() == [2, 1, 1, 1]
    assert split_to(np.array([1, 1]), 4).tolist() == [1, 1]
    full = list(EpochPlan(41, 4, world_multiple=1).batches(0))
    padded = list(EpochPlan(41, 4).batches(0))
    assert padded[:5] == full[:5] and [len(batch) for batch in padded] == [4] * 5 + [2] * 10 + [1]


def test_fewer_rows_than_the_multiple_are_not_padded():
    assert [len(batch) for batch in EpochPlan(7, 2).batches(0)] == [2, 2, 2, 1]


def test_spares_belong_to_their_slot():
    plan = EpochPlan(1000, 2)
    assert plan.spares(0, 1) == plan.spares(0, 1)
    assert len({str(plan.spares(epoch, batch)) for epoch in (0, 1) for batch in (0, 1)}) == 4
    assert all(0 <= row < 1000 for row in plan.spares(0, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rows": 0}, "num_rows must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"world_multiple": 0}, "world_multiple must be >= 1"),
        ({"tokens_per_batch": 0}, "tokens_per_batch must be >= 1"),
        ({"tokens_per_batch": 9}, "needs lengths of every row"),
        ({"rows_per_video": 0}, "rows_per_video must be >= 1"),
        ({"rows_per_video": 2}, "needs videos of every row"),
        ({"shards": np.zeros(3, int)}, "needs shards of every row"),
        ({"weights": (1.0,)}, "needs origins of every row"),
        ({"weights": (1.5,), "origins": np.zeros(4, int)}, r"must lie in \(0, 1\]"),
        ({"weights": (0.1,), "origins": np.zeros(4, int)}, "without rows"),
    ],
)
def test_wrong_plans_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EpochPlan(**{"num_rows": 4, "batch_size": 2} | options)


def test_rows_of_one_video_stand_together_and_each_row_once():
    videos = np.arange(23) % 5  # five rows of videos 0 to 2, four of 3 and 4
    plan = EpochPlan(23, 4, rows_per_video=2, videos=videos)
    order = rows_of(plan)
    assert Counter(order) == Counter(range(23))
    hands = [order[i : i + 2] for i in range(0, 20, 2)]  # two full hands of each video, three rows left over
    assert Counter(videos[hand[0]] for hand in hands) == {video: 2 for video in range(5)}
    assert all(videos[a] == videos[b] for a, b in hands)
    assert list(plan.batches(0)) != list(plan.batches(1))


def test_shards_are_cut_into_slices_and_few_are_in_use_at_a_time():
    """Twenty shards of 50 rows, slices of 25, windows of 100: a window holds four slices."""
    shards = np.arange(1000) // 50
    plan = EpochPlan(1000, 4, shards=shards, slice_rows=25, window=100)
    order = np.array(rows_of(plan))
    slices = [Counter((order[start : start + 100] // 25).tolist()) for start in range(0, 1000, 100)]
    assert all(len(window) == 4 and set(window.values()) == {25} for window in slices)
    assert sorted(order.tolist()) == list(range(1000))
    inside = order[:100] // 25
    assert len(np.flatnonzero(np.diff(inside))) > 20  # slices of a window are mixed, not laid end to end


def test_batches_of_tokens_keep_the_budget_and_waste_little():
    cost = lengths(5000)
    total = cost.visual + cost.text
    plan = EpochPlan(5000, 1, tokens_per_batch=8192, lengths=cost, sort_window=1024)
    batches = list(plan.batches(1))
    sums = np.array([total[batch].sum() for batch in batches])
    padded = sum(len(batch) * total[batch].max() for batch in batches)
    assert sums.max() <= 8192 and sums.mean() > 0.9 * 8192
    assert total.sum() / padded > 0.95  # rows of a batch are about as long
    assert sorted(rows_of(plan, 1)) == list(range(5000))
    first = [total[batch].mean() for batch in batches[:100]]
    assert first != sorted(first)  # and a window does not go from short to long


def test_a_video_counts_once_for_its_neighbours_and_a_row_above_the_budget_stands_alone():
    visual, text = np.array([10, 10, 10, 10, 99]), np.array([1, 1, 1, 1, 1])
    cut = cut_by_tokens(visual, text, np.array([0, 0, 0, 1, 2]), 13)
    assert cut.tolist() == [3, 1, 1]
    assert cut_by_tokens(visual, text, np.array([0, 0, 0, 0, 2]), 12).tolist() == [2, 2, 1]
    assert cut_by_tokens(visual, text, np.arange(5), 22).tolist() == [2, 2, 1]


def test_rows_of_one_video_stay_together_under_a_token_budget():
    videos = np.arange(600) % 200
    cost = Lengths(np.full(600, 500)[videos], lengths(600).text)
    plan = EpochPlan(600, 1, tokens_per_batch=4096, lengths=cost, rows_per_video=3, videos=videos, world_multiple=1)
    batches = list(plan.batches(0))
    apart = sum(len(set(videos[batch])) for batch in batches) - 200
    assert apart <= len(batches)  # a batch's end may cut one hand
    used = [sum(cost.text[batch]) + 500 * len(set(videos[batch])) for batch in batches]
    assert max(used) <= 4096


def test_overlays_are_mixed_by_weight_and_drawn_anew_in_every_epoch():
    origins = np.repeat([0, 1, 2], [40, 20, 10])
    plan = EpochPlan(70, 4, origins=origins, weights=(0.5, 1.0, 0.25))
    first, second = rows_of(plan, 0), rows_of(plan, 1)
    for rows in (first, second):
        assert Counter(origins[rows].tolist()) == {0: 20, 1: 20, 2: 2} and len(set(rows)) == 42
    assert set(first) != set(second) and plan.num_epoch_rows == 42
    assert rows_of(EpochPlan(70, 4, origins=origins, weights=(0.5, 1.0, 0.25)), 0) == first


def test_plans_that_differ_say_so():
    cost = lengths(20)
    plans = [
        EpochPlan(20, 4),
        EpochPlan(20, 5),
        EpochPlan(20, 4, seed=1),
        EpochPlan(20, 4, window=10),
        EpochPlan(20, 4, world_multiple=4),
        EpochPlan(20, 4, tokens_per_batch=900, lengths=cost),
        EpochPlan(20, 4, tokens_per_batch=900, lengths=lengths(20, seed=1)),
        EpochPlan(20, 4, origins=np.zeros(20, int), weights=(0.5,)),
    ]
    assert len({str(plan.identity()) for plan in plans}) == len(plans)
    assert EpochPlan(20, 4).identity() == plans[0].identity()


@pytest.mark.parametrize("num_rows", [8, 50, 55, 102, 399])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_rows_that_all_stand_alone_make_no_batch_too_many(num_rows, multiple):
    ones = np.ones(num_rows, np.int64)
    plan = EpochPlan(num_rows, 1, tokens_per_batch=1, lengths=Lengths(ones, ones), world_multiple=multiple)
    batches = plan.batches(0)
    assert len(batches) == plan.num_batches <= num_rows and plan.num_batches % multiple == 0
    assert batches.num_unused == num_rows - plan.num_batches < multiple
    assert batches[plan.num_batches - 1]
