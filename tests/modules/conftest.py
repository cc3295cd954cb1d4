import logging
import warnings

import pytest
import torch
from lightning import Trainer

warnings.filterwarnings("ignore", ".*does not have many workers.*")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


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
