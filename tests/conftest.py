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
    """Eight clips of the train split with every mix as an overlay, and pairs made of true and noisy captions."""
    from lit_vpo.datamodules.motion_world import HABITS, noisy_caption, sample_scene
    from lit_vpo.datamodules.motion_world.shards import write_world
    from lit_vpo.datamodules.motion_world.tasks import MIXES
    from lit_vpo.datamodules.overlay import Overlay

    import random

    out = tmp_path_factory.mktemp("world") / "train"
    write_world(out, "train", 8, 0, list(MIXES), 2)
    rows = []
    for index in range(8):
        scene = sample_scene("train", 0, index)
        texts = [noisy_caption(scene, HABITS, random.Random(f"{scene.key}/{n}")) for n in range(2)]
        if texts[0] != texts[1]:
            rows.append(
                {
                    "key": scene.key,
                    "id": scene.key,
                    "prompt": "Describe the video in detail.",
                    "chosen": texts[0],
                    "rejected": texts[1],
                    "mode": "dpo",
                }
            )
    Overlay(tuple(rows)).save(out / "pairs.jsonl")
    return out


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real clips and annotations beside the checkout; tests that need it skip where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "videos").is_dir():
        pytest.skip("the real clips are not beside this checkout")
    return folder
