import pytest
import torch

from lit_vpo.preferences import perturbations
from lit_vpo.preferences.perturbations import (
    NoPerturbation,
    difficulty,
    drop,
    frame_order,
    get_perturbation,
    groups_of,
    perturbed_prompts,
    reverse,
    shuffle,
)

# n -> {r: (group size, number of groups, kept by drop)}, from the released code's behaviour (methods.md 1.5)
TABLE = {
    4: {16: (1, 4, 1), 8: (1, 4, 1), 4: (1, 4, 1), 2: (2, 2, 2)},
    8: {16: (1, 8, 1), 8: (1, 8, 1), 4: (2, 4, 2), 2: (4, 2, 4)},
    12: {16: (1, 12, 1), 8: (1, 12, 1), 4: (3, 4, 3), 2: (6, 2, 6)},
    16: {16: (1, 16, 1), 8: (2, 8, 2), 4: (4, 4, 4), 2: (8, 2, 8)},
    31: {16: (1, 31, 1), 8: (3, 11, 3), 4: (7, 5, 7), 2: (15, 3, 15)},
    32: {16: (2, 16, 2), 8: (4, 8, 4), 4: (8, 4, 8), 2: (16, 2, 16)},
}
CELLS = [(n, r, *cell) for n, row in TABLE.items() for r, cell in row.items()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "r", "size", "num_groups", "kept"), CELLS)
def test_table_of_group_sizes(n, r, size, num_groups, kept):
    groups = groups_of(n, r)
    assert len(groups) == num_groups
    assert {len(group) for group in groups[:-1]} == {size}
    assert 1 <= len(groups[-1]) <= size
    assert [unit for group in groups for unit in group] == list(range(n))
    units = drop(n, r, generator())
    assert len(units) == kept
    assert units == sorted(set(units))


def test_reverse_by_hand():
    assert [unit + 1 for unit in reverse(8, 4, generator())] == [7, 8, 5, 6, 3, 4, 1, 2]
    # 31 units at r = 8: groups of three, the eleventh holds one
    assert reverse(31, 8, generator())[:7] == [30, 27, 28, 29, 24, 25, 26]


@pytest.mark.parametrize("n", [4, 12, 16, 31, 32])
@pytest.mark.parametrize("r", [2, 4, 8, 16])
def test_shuffle_keeps_groups_whole(n, r):
    units = shuffle(n, r, generator(1))
    groups = groups_of(n, r)
    start = {group[0]: group for group in groups}
    found = []
    while len(found) < n:
        found += start[units[len(found)]]
    assert units == found
    assert sorted(units) == list(range(n))


def test_shuffle_reaches_every_order_evenly():
    draws = generator()
    orders = [tuple(shuffle(6, 2, draws)) for _ in range(2000)]
    assert set(orders) == {(0, 1, 2, 3, 4, 5), (3, 4, 5, 0, 1, 2)}
    assert 900 < sum(order[0] == 0 for order in orders) < 1100
    assert len({tuple(shuffle(4, 4, draws)) for _ in range(2000)}) == 24


def test_drop_keeps_every_unit_equally_often():
    draws = generator()
    counts = torch.bincount(torch.tensor([drop(8, 4, draws) for _ in range(4000)]).flatten(), minlength=8)
    assert counts.tolist() == pytest.approx([1000] * 8, rel=0.12)


@pytest.mark.parametrize("kind", ["shuffle", "reverse", "drop"])
@pytest.mark.parametrize("r", [2, 4, 8, 16])
def test_frame_order_is_never_the_clean_one(kind, r):
    orders = [frame_order(kind, r, 16, seed=0, key=f"clip{i}") for i in range(100)]
    assert list(range(16)) not in orders
    assert all(len(order) == 16 and set(order) <= set(range(16)) for order in orders)


def test_drop_shows_each_kept_frame_equally_often():
    order = frame_order("drop", 4, 16, seed=0, key="clip")
    kept = sorted(set(order))
    assert order == [frame for frame in kept for _ in range(4)]
    uneven = frame_order("drop", 8, 31, seed=0, key="clip")  # 3 kept of 31: 11, 10 and 10 times
    assert sorted(uneven.count(frame) for frame in set(uneven)) == [10, 10, 11]
    assert uneven == sorted(uneven)


def test_the_address_decides_the_draw():
    draws = {
        (seed, key, r): tuple(frame_order("shuffle", r, 16, seed, key))
        for seed in (0, 1)
        for key in ("a", "b")
        for r in (8, 16)
    }
    assert len(set(draws.values())) == len(draws)
    torch.manual_seed(1)  # the global generator has no say
    assert frame_order("shuffle", 16, 16, 0, "a") == list(draws[0, "a", 16])


@pytest.mark.parametrize("kind", ["shuffle", "reverse", "drop"])
def test_one_frame_cannot_be_perturbed(kind):
    with pytest.raises(NoPerturbation, match="sample more frames"):
        frame_order(kind, 2, 1, seed=0, key="clip")


def test_difficulty_scale():
    assert [difficulty(r) for r in (16, 8, 4, 2)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert difficulty(32) == 0
    with pytest.raises(ValueError, match="r must be >= 2"):
        difficulty(1)


def swap_ends(num_units, r, generator):
    return [num_units - 1, *range(1, num_units - 1), 0]


def keep_order(num_units, r, generator):
    return list(range(num_units))


def out_of_range(num_units, r, generator):
    return [num_units]


def test_users_own_by_dotted_path_and_by_decorator(monkeypatch):
    assert frame_order(f"{__name__}.swap_ends", 2, 4, 0, "clip") == [3, 1, 2, 0]
    monkeypatch.setattr(perturbations, "PERTURBATIONS", dict(perturbations.PERTURBATIONS))
    assert perturbations.register("swap_ends")(swap_ends) is get_perturbation("swap_ends")
    with pytest.raises(ValueError, match="exists already"):
        perturbations.register("drop")(swap_ends)


@pytest.mark.parametrize(
    ("kind", "r", "message"),
    [
        ("blur", 4, "unknown perturbation 'blur'; known: drop, reverse, shuffle"),
        ("no_such_package.blur", 4, "cannot be imported"),
        (f"{__name__}.TABLE", 4, "no function"),
        (f"{__name__}.keep_order", 4, "clean order"),
        (f"{__name__}.out_of_range", 4, "must return 1 to 4 of 4 units"),
        ("drop", 1, "r must be >= 2"),
    ],
)
def test_bad_input_is_refused(kind, r, message):
    with pytest.raises(ValueError, match=message):
        frame_order(kind, r, 4, seed=0, key="clip")


def test_prompts_are_one_clean_row_and_one_per_cell():
    rows = perturbed_prompts(["a", "b"], ["P", "Q"], ["drop", "reverse"], [2, 16], num_frames=4, seed=0)
    assert [row["id"] for row in rows[:5]] == ["a/clean", "a/drop-2", "a/drop-16", "a/reverse-2", "a/reverse-16"]
    assert len(rows) == 10
    assert rows[0] == {"key": "a", "id": "a/clean", "prompt": rows[0]["prompt"], "media": {}, "perturbation": None}
    assert rows[3] == {
        "key": "a",
        "id": "a/reverse-2",
        "prompt": rows[0]["prompt"],
        "media": {"frame_order": [2, 3, 0, 1]},
        "perturbation": {"kind": "reverse", "r": 2},
        "r": 2,
        "difficulty": 1.0,
    }


def test_a_videos_rows_do_not_depend_on_its_neighbours():
    every = perturbed_prompts(["a", "b", "c"], ["P", "Q"], ["shuffle"], [16], num_frames=16, seed=5)
    alone = perturbed_prompts(["c"], ["P", "Q"], ["shuffle"], [16], num_frames=16, seed=5)
    assert every[-2:] == alone


def test_each_prompt_is_drawn_for_some_video():
    rows = perturbed_prompts([f"k{i}" for i in range(300)], ["P", "Q", "R"], ["drop"], [2], num_frames=4, seed=0)
    asked = [row["prompt"] for row in rows if row["perturbation"] is None]
    assert all(70 < asked.count(prompt) < 130 for prompt in "PQR")


def test_impossible_perturbations_are_skipped_and_said():
    with pytest.warns(UserWarning, match="2 prompts skipped: reverse at r=2 leaves 1 frame"):
        rows = perturbed_prompts(["a", "b"], ["P"], ["reverse"], [2], num_frames=1, seed=0)
    assert [row["id"] for row in rows] == ["a/clean", "b/clean"]


def test_the_same_frames_are_asked_about_once():
    with pytest.warns(UserWarning, match="2 prompts skipped: shuffle at r=2 shows the same frames as reverse at r=2"):
        rows = perturbed_prompts(["a", "b"], ["P"], ["reverse", "shuffle"], [2], num_frames=16, seed=0)
    assert [row["id"] for row in rows] == ["a/clean", "a/reverse-2", "b/clean", "b/reverse-2"]
    with pytest.warns(UserWarning, match="1 prompts skipped: reverse at r=8 shows the same frames as reverse at r=16"):
        rows = perturbed_prompts(["a"], ["P"], ["reverse"], [16, 8], num_frames=8, seed=0)
    assert [row["id"] for row in rows] == ["a/clean", "a/reverse-16"]


@pytest.mark.parametrize(
    ("prompts", "kinds", "divisors"), [([], ["drop"], [2]), (["P"], [], [2]), (["P"], ["drop"], [2, 2])]
)
def test_empty_or_repeated_choices_are_refused(prompts, kinds, divisors):
    with pytest.raises(ValueError, match="must hold at least one value"):
        perturbed_prompts(["a"], prompts, kinds, divisors, num_frames=4, seed=0)
