import logging
import warnings

import pytest
import torch
from lightning import Trainer

from lit_vpo.datamodules import Clip, Collator
from lit_vpo.models import load_processor

NAMES = ["tiny_llava_onevision", "tiny_qwen2_5_vl"]
PROCESSORS = {}

warnings.filterwarnings("ignore", ".*does not have many workers.*")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


def record(index, **more):
    return {
        "id": f"clip-{index}",
        "key": f"clip-{index}",
        "media": {},
        "prompt": ["Describe the video.", "What happens in the video, in detail?"][index % 2],
        "history": [],
        "ground_truth": f"a red circle moves left {index} times",
        "chosen": f"a blue square grows, then {index} spins",
        "rejected": "a star",
        "mode": "dpo",
        "weight": 1.0,
        "meta": {"options": ["left", f"a red circle moves left {index} times"], "kind": "direction"},
    } | more


@pytest.fixture
def make_batch():
    """Batches by the project's own collator, over clips of noise."""

    def make(kind, name="tiny_llava_onevision", size=2, first=0, num_frames=4, **more):
        if name not in PROCESSORS:
            PROCESSORS[name] = load_processor(name)
        options = {"with_ground_truth": more.pop("with_ground_truth", False)}
        rng = torch.Generator().manual_seed(first)
        examples = []
        for index in range(first, first + size):
            frames = torch.randint(0, 256, (num_frames, 3, 60, 60), generator=rng, dtype=torch.uint8)
            examples.append((record(index, **more), Clip(frames, [i / 2 for i in range(num_frames)], 2.0)))
        return Collator(PROCESSORS[name], kind, **options)(examples)

    return make


class Batches(torch.utils.data.Dataset):
    """Ready batches as a data set."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.fixture
def loader():
    return lambda batches: torch.utils.data.DataLoader(Batches(batches), batch_size=None)


@pytest.fixture
def trainer(tmp_path):
    def make(**more):
        settings = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "max_epochs": -1,
            "max_steps": 2,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
        }
        return Trainer(**settings | more)

    return make
