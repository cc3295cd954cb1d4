"""TEMPO's S6: clarity beside an independent Laplacian, and the two frames of a span worked by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, pad

from lit_vpo.preferences.sharpness import clarity, sharpest_pair


def oracle(gray):
    """Blur and Laplacian by whole-number convolutions over a mirrored border."""
    blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64)
    laplacian = torch.tensor([[2.0, 0, 2], [0, -8, 0], [2, 0, 2]], dtype=torch.float64)

    def filtered(picture, kernel):
        return conv2d(pad(picture[None, None], (1, 1, 1, 1), "reflect"), kernel[None, None])[0, 0]

    blurred = (filtered(torch.from_numpy(gray).double(), blur) / 16 + 0.5).floor()
    return filtered(blurred, laplacian).abs().mean().item()


@pytest.mark.parametrize("seed", range(5))
def test_clarity_is_the_mean_absolute_laplacian_of_the_blurred_picture(seed):
    gray = np.random.default_rng(seed).integers(0, 256, (37, 53), np.uint8)
    assert clarity(gray) == pytest.approx(oracle(gray), rel=1e-12)


def test_a_blurred_picture_is_less_clear_and_a_flat_one_not_at_all():
    import cv2

    gray = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert clarity(gray) > clarity(cv2.GaussianBlur(gray, (7, 7), 0)) > 0
    assert clarity(np.full((64, 64), 90, np.uint8)) == 0


def test_equally_sharp_frames_leave_the_centres():
    # 12 frames from 100: centres 104 and 108
    assert sharpest_pair(np.ones(200), (100, 112)) == [104, 108]


def test_a_sharp_frame_wins_by_its_clarity_times_the_cosine():
    # interval 4: one frame beside the centre weighs cos(pi / 4)
    clarities = np.ones(12)
    clarities[5] = 1.01 / math.cos(math.pi / 4)
    assert sharpest_pair(clarities, (0, 12)) == [5, 8]
    clarities[5] = 0.99 / math.cos(math.pi / 4)
    assert sharpest_pair(clarities, (0, 12)) == [4, 8]


def test_frames_at_the_windows_ends_and_outside_are_never_taken():
    clarities = np.ones(12)
    clarities[[0, 1, 2, 6, 10, 11]] = 1e9  # windows are 2 < frame < 6 and 6 < frame < 10
    assert sharpest_pair(clarities, (0, 12)) == [4, 8]


@pytest.mark.parametrize("length", range(3, 40))
def test_the_two_frames_differ_and_lie_in_their_windows(length):
    rng = np.random.default_rng(length)
    first, second = sharpest_pair(rng.uniform(0, 1, 100), (50, 50 + length))
    assert 50 <= first < second < 50 + length
    for frame, third in ((first, 1), (second, 2)):
        assert abs(frame - (50 + length * third / 3)) <= length / 6
