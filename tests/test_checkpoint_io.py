"""A disk that is full while a checkpoint is written leaves the last good one, and nothing else."""

import contextlib
import pathlib
import resource
import signal

import pytest
import torch

from lit_vpo.checkpoint_io import AtomicCheckpointIO
from lit_vpo.cli import main
from lit_vpo.datamodules import read_overlay, write_overlay

ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def full_after(size):
    """No file of this process grows beyond some bytes: the kernel itself refuses the rest, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def checkpoint(value):
    return {"state_dict": {"a": torch.full((50_000,), value)}, "step": int(value)}


@pytest.mark.parametrize("size", [0, 10_000, 100_000])
def test_the_last_checkpoint_stays_and_is_the_only_file(tmp_path, size):
    path, io = tmp_path / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint(checkpoint(1.0), path)
    good = path.read_bytes()
    with full_after(size), pytest.raises((OSError, RuntimeError)):
        io.save_checkpoint(checkpoint(2.0), path)
    assert path.read_bytes() == good and list(path.parent.iterdir()) == [path]
    io.save_checkpoint(checkpoint(2.0), path)
    assert torch.load(path, weights_only=True)["step"] == 2 and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("size", [0, 1_000])
def test_the_last_overlay_stays_and_is_the_only_file(tmp_path, size):
    path = tmp_path / "pairs.jsonl"
    rows = [{"key": f"k{number}", "prompt": "?", "chosen": "a", "rejected": "b"} for number in range(500)]
    write_overlay(path, rows[:1])
    with full_after(size), pytest.raises(OSError, match="File too large"):
        write_overlay(path, rows)
    assert read_overlay(path).rows == tuple(rows[:1]) and list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_does_not_pile_up(tmp_path):
    (tmp_path / ".checkpoint.part").write_bytes(b"half of one")
    AtomicCheckpointIO().save_checkpoint(checkpoint(1.0), tmp_path / "a.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_every_run_of_the_command_line_writes_them_so(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    written, original = [], AtomicCheckpointIO.save_checkpoint

    def spy(self, checkpoint, path, storage_options=None):
        written.append(pathlib.Path(path).name)
        original(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", spy)
    main(
        ["fit", "-c", "experiments/smoke/dpo.yaml", "--run_dir", str(tmp_path), "--trainer.max_steps", "1",
         "--trainer.limit_val_batches", "0", "--data.init_args.batch_size", "2", "--trainer.callbacks",
         "[{class_path: ModelCheckpoint, init_args: {every_n_train_steps: 1}}]"]
    )  # fmt: skip
    assert written == [path.name for path in (tmp_path / "checkpoints").iterdir()] and written
