"""TEMPO's S1 and S2 on shots made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lit_vpo.preferences.selection_rules import NotSelected, SelectionRules
from lit_vpo.preferences.shots import FrameStats, check_shots, is_flat, is_short, usable_shots

RULES = SelectionRules()


def stats(*grays):
    """Frames whose gray levels reach from the first to the second of each pair."""
    darkest, brightest = np.array(grays, np.uint8).T
    return FrameStats(darkest, brightest, np.ones(len(grays)))


def test_a_shot_is_short_below_eight_frames_or_a_fifth_of_a_second():
    assert is_short((10, 17), 8.0, RULES) and not is_short((10, 18), 8.0, RULES)
    assert is_short((0, 11), 60.0, RULES) and not is_short((0, 12), 60.0, RULES)  # 0.2 s of 60 fps are 12 frames


def test_a_shot_is_flat_where_the_range_over_all_its_frames_is_below_ten():
    frames = stats((0, 5), (4, 9), (4, 10), (200, 205))
    assert is_flat((0, 2), frames, RULES)  # 9 - 0
    assert not is_flat((0, 3), frames, RULES)  # 10 - 0: no frame has this range, the shot has
    assert is_flat((3, 4), frames, RULES)  # bright and flat
    assert not is_flat((2, 4), frames, RULES)  # 205 - 4 must not wrap around in uint8


def test_short_and_flat_shots_are_left_out():
    frames = stats(*[(0, 255)] * 10, *[(0, 3)] * 10, *[(0, 255)] * 3, *[(0, 255)] * 9)
    shots = [(0, 10), (10, 20), (20, 23), (23, 32)]
    assert usable_shots(shots, frames, 8.0, RULES) == [(0, 10), (23, 32)]


@pytest.mark.parametrize(
    ("num_shots", "length", "reason"),
    [
        (3, 10, "few_shots"),
        (4, 10, None),
        (32, 10, None),
        (33, 10, "many_shots"),
        (4, 128, None),  # 16 s at 8 fps
        (4, 129, "long_shot"),
        (0, 1, "few_shots"),
    ],
)
def test_four_to_thirty_two_shots_of_at_most_sixteen_seconds(num_shots, length, reason):
    shots = [(length * place, length * (place + 1)) for place in range(num_shots)]
    if reason is None:
        check_shots(shots, 8.0, RULES)
    else:
        with pytest.raises(NotSelected) as refusal:
            check_shots(shots, 8.0, RULES)
        assert refusal.value.reason == reason


def test_the_numbers_are_arguments():
    check_shots([(0, 10)], 8.0, replace(RULES, min_shots=1))
    with pytest.raises(NotSelected, match="many_shots"):
        check_shots([(0, 10)] * 5, 8.0, replace(RULES, max_shots=4))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ({"min_shot_frames": 2}, "min_shot_frames >= 3"),
        ({"min_shot_s": 17.0}, "min_shot_s <= max_shot_s"),
        ({"min_shots": 33}, "min_shots <= max_shots"),
        ({"min_gray_range": 300}, "0..256"),
        ({"merge_above": 80.0}, "cosine"),
        ({"merge_above": float("nan")}, "cosine"),
        ({"occurrence_share": 0}, "occurrence_share"),
    ],
)
def test_numbers_out_of_range_are_refused(number, words):
    with pytest.raises(ValueError, match=words):
        SelectionRules(**number)
