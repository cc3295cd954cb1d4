import pytest

from lit_vpo.datamodules.position import Position


def epoch_of(position, world=None):
    """Global batches that all ranks take until the epoch's end."""
    position.begin()
    position.start()
    taken, left = [], position.steps_left
    for _ in range(left):
        start = position.cursor
        position.advance()
        taken += range(start, start + position.world)
    return taken


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_that_divide_the_batches_take_all_of_them(world):
    position = Position(8, 0, world)
    assert [epoch_of(position), epoch_of(position)] == [list(range(8)), list(range(8, 16))]
    assert position.num_unused == 0 and position.epoch == 2


def test_ranks_that_do_not_leave_the_tail_of_every_epoch():
    position = Position(8, 0, 3)
    assert [epoch_of(position), epoch_of(position)] == [list(range(6)), list(range(8, 14))]
    assert position.num_unused == position.length == 2


@pytest.mark.parametrize("cut", range(17))
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (1, 4), (4, 2), (2, 2), (4, 8), (8, 1)])
def test_other_ranks_go_on_with_the_same_sequence_across_epochs(cut, before, after):
    first = Position(8, 0, before)
    taken = []
    while len(taken) < cut * before and len(taken) < 16:
        if first.steps_left == 8 // before and first.in_epoch == 0:
            first.begin()
            first.start()
        taken += range(first.cursor, first.cursor + before)
        first.advance()
    second = Position(8, 0, after)
    second.load(first.state())
    while len(taken) < 40:
        taken += epoch_of(second)
    assert taken == list(range(len(taken)))


def test_the_length_is_what_is_done_plus_what_is_left():
    one = Position(8)
    for _ in range(3):
        one.advance()
    two = Position(8, 1, 2)
    two.load(one.state())
    assert (two.done, two.steps_left, two.length) == (3, 3, 6)
    assert epoch_of(two) == [3, 4, 5, 6, 7, 8] and two.epoch == 1
    assert (two.done, two.length) == (0, 4)  # the epochs after it have their own length again


def test_a_state_is_the_same_on_every_rank_and_numbers_are_checked():
    ranks = [Position(8, rank, 2) for rank in range(2)]
    for position in ranks:
        position.advance()
    assert ranks[0].state() == ranks[1].state() == {"cursor": 2, "done": 1}
    with pytest.raises(ValueError, match=r"rank must lie in 0..1, got 2"):
        Position(8, 2, 2)
    with pytest.raises(ValueError, match="3 batches do not give 4 ranks one each"):
        Position(3, 0, 4)


def test_a_rest_too_short_for_more_ranks_is_left_out():
    one = Position(8)
    for _ in range(7):
        one.advance()
    three = Position(8, 0, 3)
    three.load(one.state())
    assert epoch_of(three) == list(range(8, 14))


@pytest.mark.parametrize("world", [1, 2])
def test_a_state_stands_where_the_last_whole_optimizer_step_ended(world):
    """Eight steps in threes: 3, 3 and 2. A state never lies within one, but at the epoch's end."""
    position = Position(8 * world, 0, world, accumulate=3)
    position.begin()
    position.start()
    states = []
    for _ in range(8):
        position.advance()
        states.append(position.state())
    assert [state["done"] for state in states] == [0, 0, 3, 3, 3, 6, 6, 0]
    assert [state["cursor"] for state in states] == [world * done for done in (0, 0, 3, 3, 3, 6, 6, 8)]


def test_a_batch_that_was_handed_over_but_not_trained_on_comes_again():
    position = Position(8, 0, 1, accumulate=2)
    position.load({"cursor": 2, "done": 2})
    position.begin()
    position.start()
    assert position.state(0) == {"cursor": 2, "done": 2}  # Lightning may have lost its count
    position.advance()
    position.advance()
    assert position.state(3) == {"cursor": 2, "done": 2} and position.state(4) == {"cursor": 4, "done": 4}
    for _ in range(4):
        position.advance()
    assert position.state(7) == {"cursor": 6, "done": 6} and position.state(8) == {"cursor": 8, "done": 0}
