"""The two sharpest frames of a span of shots (TEMPO's S6)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .shots import Shot


def clarity(gray: npt.NDArray[Any]) -> float:
    """How sharp a picture is: the mean of |Laplacian| after a 3 x 3 Gaussian blur.

    Args:
        gray: (H, W) uint8.
    """
    import cv2

    blurred = cv2.GaussianBlur(gray, (3, 3), 0)
    return float(np.abs(cv2.Laplacian(blurred, cv2.CV_16S, ksize=3)).mean())


def sharpest_pair(clarities: npt.NDArray[Any], span: Shot) -> list[int]:
    """Two frame numbers of a span in time order, one about each third of it.

    With interval = length / 3 the centres lie one and two intervals after the start. Within half an interval of each
    the frame of the greatest clarity * cos(pi * distance / interval) is taken: the weight is 1 at the centre and 0 at
    the windows' ends, which belong to neither, so the two frames differ.

    Args:
        clarities: (N,) float, of all of the video's frames.
        span: At least 3 frames.
    """
    start, end = span
    length = end - start
    assert length >= 3, "a shorter span has a window without a frame"
    pair = []
    for third in (1, 2):
        # distances in thirds of a frame are whole numbers: the windows' ends are exact
        distances = {frame: 3 * (frame - start) - third * length for frame in range(start, end)}
        window = [frame for frame, distance in distances.items() if 2 * abs(distance) < length]
        pair.append(max(window, key=lambda f: clarities[f] * math.cos(math.pi * distances[f] / length)))
    return pair
