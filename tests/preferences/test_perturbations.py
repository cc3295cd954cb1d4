import pytest
import torch

from lit_vpo.preferences import perturbations
from lit_vpo.preferences.perturbations import (
    OTHER,
    Form,
    NoPerturbation,
    all_forms,
    difficulty,
    drop,
    freeze,
    get_perturbation,
    groups_of,
    perturbed,
    reverse,
    shuffle,
    splice,
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
KINDS = ("drop", "shuffle", "reverse", "freeze", "splice")


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


def test_freeze_plays_a_window_and_stands_around_it():
    """8 units: at r = 4 two of them play, at r = 16 it is a still picture."""
    shown = {tuple(freeze(8, 4, generator(seed))) for seed in range(200)}
    assert shown == {tuple([start] * (start + 1) + [start + 1] * (7 - start)) for start in range(7)}
    assert {tuple(freeze(8, 16, generator(seed))) for seed in range(200)} == {(unit,) * 8 for unit in range(8)}
    assert (2, 2, 2, 3, 4, 5, 5, 5) in {tuple(freeze(8, 2, generator(seed))) for seed in range(200)}


def test_splice_keeps_a_window_in_place():
    shown = {tuple(splice(8, 2, generator(seed))) for seed in range(200)}
    windows = [range(start, start + 4) for start in range(5)]
    assert shown == {tuple(unit if unit in window else OTHER for unit in range(8)) for window in windows}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("r", [2, 4, 8, 16])
def test_a_perturbed_form_is_never_the_clean_one(kind, r):
    for n in (2, 3, 16):
        forms = [perturbed(kind, r, n, seed=0, key=f"clip{i}", others=["clip0", "clip1", "x"]) for i in range(30)]
        assert list(range(n)) not in [form.units for form in forms]
        assert all(1 <= len(form.units) <= n and set(form.units) <= {OTHER, *range(n)} for form in forms)


def test_the_other_video_is_drawn_among_all_but_ones_own():
    keys = [f"k{i}" for i in range(5)]
    forms = [perturbed("splice", 4, 8, seed, "k2", keys) for seed in range(400)]
    counts = [sum(form.other == key for form in forms) for key in keys]
    assert counts[2] == 0 and all(70 < count < 130 for count in (*counts[:2], *counts[3:]))
    assert perturbed("reverse", 4, 8, 0, "k2", keys).other is None
    with pytest.raises(NoPerturbation, match="splice needs another video"):
        perturbed("splice", 4, 8, 0, "k2", ["k2"])


def test_a_forms_fields():
    assert Form("splice", 2, [0, OTHER], "b").fields("clips") == {
        "perturbation": {"kind": "splice", "r": 2, "unit": "clips", "units": [0, -1], "other": "b"},
        "r": 2,
        "difficulty": 1.0,
    }


def test_divisors_that_coincide_are_one():
    """8 units: groups of one at r = 16 and at r = 8, for drop and shuffle too, whose draws would differ."""
    kinds = ["drop", "shuffle", "reverse"]
    forms, reasons = all_forms(kinds, [16, 8, 4, 2], "captions", 8, 0, "a")
    assert [(form.kind, form.r) for form in forms] == [(kind, r) for kind in kinds for r in (16, 4, 2)]
    assert reasons == [f"{kind} at r=8 is {kind} at r=16 on 8 captions" for kind in kinds]
    own = f"{__name__}.swap_ends"  # nobody knows what a user's own makes of r
    assert [form.r for form in all_forms([own], [16, 8], "frames", 8, 0, "a")[0]] == [16, 8]


def test_the_address_decides_the_draw():
    draws = {
        (seed, key, r): tuple(perturbed("shuffle", r, 16, seed, key).units)
        for seed in (0, 1)
        for key in ("a", "b")
        for r in (8, 16)
    }
    assert len(set(draws.values())) == len(draws)
    torch.manual_seed(1)  # the global generator has no say
    assert perturbed("shuffle", 16, 16, 0, "a").units == list(draws[0, "a", 16])
    once = perturbed("splice", 4, 16, 0, "a", ["a", "b", "c", "d"])
    assert perturbed("splice", 4, 16, 0, "a", ["a", "b", "c", "d"]) == once


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_cannot_be_perturbed(kind):
    with pytest.raises(NoPerturbation, match="sample more frames"):
        perturbed(kind, 2, 1, seed=0, key="clip", others=["x"])


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
    assert perturbed(f"{__name__}.swap_ends", 2, 4, 0, "clip").units == [3, 1, 2, 0]
    monkeypatch.setattr(perturbations, "PERTURBATIONS", dict(perturbations.PERTURBATIONS))
    assert perturbations.register("swap_ends")(swap_ends) is get_perturbation("swap_ends")
    with pytest.raises(ValueError, match="exists already"):
        perturbations.register("drop")(swap_ends)


@pytest.mark.parametrize(
    ("kind", "r", "message"),
    [
        ("blur", 4, "unknown perturbation 'blur'; known: drop, freeze, reverse, shuffle, splice"),
        ("no_such_package.blur", 4, "cannot be imported"),
        (f"{__name__}.TABLE", 4, "no function"),
        (f"{__name__}.keep_order", 4, "clean order"),
        (f"{__name__}.out_of_range", 4, "must return 1 to 4 of 4 units"),
        ("drop", 1, "r must be >= 2"),
    ],
)
def test_bad_input_is_refused(kind, r, message):
    with pytest.raises(ValueError, match=message):
        perturbed(kind, r, 4, seed=0, key="clip")
