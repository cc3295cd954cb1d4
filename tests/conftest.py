"""Shared by every test: lit_vpo comes first (the torchvision guard), no hub, one thread, a small world on disk."""

import lit_vpo  # noqa: F401  isort: skip

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pathlib

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Eight clips of the train split with every mix of tasks as an overlay, two rows per clip."""
    from lit_vpo.datamodules.motion_world.shards import write_world
    from lit_vpo.datamodules.motion_world.tasks import MIXES

    out = tmp_path_factory.mktemp("world") / "train"
    write_world(out, "train", 8, 0, list(MIXES), 2)
    return out


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real clips and annotations beside the checkout; tests that need it skip where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "videos").is_dir():
        pytest.skip("the real clips are not beside this checkout")
    return folder
