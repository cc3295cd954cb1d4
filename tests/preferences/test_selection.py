"""One video's way through the selection, on numbers made by hand."""

import numpy as np
import pytest
import torch

from lit_vpo.preferences.selection import Scan, middles, select_frames, select_shots
from lit_vpo.preferences.selection_rules import NotSelected, SelectionRules
from lit_vpo.preferences.shots import FrameStats

RULES = SelectionRules()
SHOTS = [(0, 12), (12, 24), (24, 36), (36, 48), (48, 60), (60, 72), (72, 84)]


def scan(shots=SHOTS, flat=()):
    frames = np.zeros(84, np.uint8), np.full(84, 255, np.uint8), np.ones(84)
    for start, end in flat:
        frames[1][start:end] = 9
    return Scan(shots, FrameStats(*frames), 8.0)


def features(word):
    """A direction of its own for each letter."""
    return torch.eye(26)[[ord(letter) - ord("a") for letter in word]]


def test_middles():
    assert middles([(0, 12), (12, 21)]) == [6, 16]


def test_groups_merged_groups_and_two_frames_of_each():
    found = select_frames(SHOTS, features("aabcdae"), np.ones(84), RULES)
    assert found["groups"] == [[0, 1, 5], [2], [3], [4], [6]]
    assert found["merged_groups"] == [[0, [0, 1]], [1, [2]], [2, [3]], [3, [4]], [0, [5]], [4, [6]]]
    # thirds of 0..24, then of each shot of twelve frames
    assert found["frame_indices"] == [[8, 16], [28, 32], [40, 44], [52, 56], [64, 68], [76, 80]]


def test_a_merged_group_spans_what_was_left_out_between_its_shots():
    shots = [(0, 10), (30, 42), *SHOTS[4:]]
    found = select_frames(shots, features("aabcd"), np.ones(84), RULES)
    assert found["frame_indices"][0] == [14, 28]  # thirds of 0..42


@pytest.mark.parametrize(("word", "reason"), [("aaaaaab", "few_groups"), ("abacada", "repetitive")])
def test_a_video_that_shows_the_same_is_dropped_with_its_similarities(word, reason):
    with pytest.raises(NotSelected) as refusal:
        select_frames(SHOTS, features(word), np.ones(84), RULES)
    assert refusal.value.reason == reason
    assert "similarity of two shots: 0.00 to 1.00" in refusal.value.detail


def test_unusable_shots_are_counted_in_the_reason():
    assert select_shots(scan(flat=[(12, 24)]), RULES) == [SHOTS[0], *SHOTS[2:]]
    with pytest.raises(NotSelected) as refusal:
        select_shots(scan([(0, 12), (12, 15), (15, 84)], flat=[(0, 12)]), RULES)
    assert refusal.value.reason == "few_shots"
    assert "1 usable shots" in refusal.value.detail and "(3 found, 1 of them short, 1 flat)" in refusal.value.detail
