"""A run cut anywhere and resumed sees the key sequence of the straight run. The oracle is the plan, not another run."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from resuming import QUIET, Keys, data

from lit_vpo.datamodules.overlay import write_overlay

NUM_BATCHES = 8


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """Fifteen rows of text alone: eight batches of two, the last one short."""
    row = {"prompt": "What?", "ground_truth": "a cat", "media": {"video": None}}
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_overlay(path, [{"key": f"s{n % 6}", "id": f"r{n}", **row} for n in range(15)])
    return path


@pytest.fixture
def make(shards, overlay, llava):
    return lambda place=(0, 1), **options: data(shards, overlay, place, llava, **options)


@pytest.fixture(scope="module")
def expected(shards, overlay, llava):
    """Ids of the global batches of five epochs, read off the plan."""
    loader = data(shards, overlay, (0, 1), llava).train_dataloader()
    plan, rows = loader.plan, loader.reader.rows
    assert plan.num_batches == NUM_BATCHES
    return [[rows[row]["id"] for row in batch] for epoch in range(5) for batch in plan.batches(epoch)]


def together(ranks):
    """Global batches in their order, from those of each rank."""
    assert len({len(rank) for rank in ranks}) == 1
    return [batch for step in zip(*ranks, strict=True) for batch in step]


def part(make, world, limits, folder, resume=None, stop_at=None, stepping=False, workers=0, save_every=1):
    """One process of every rank in turn, from rank 0's checkpoint, as Lightning hands it to all."""
    seen = []
    for rank in range(world):
        module = Keys(stop_at, stepping)
        saver = ModelCheckpoint(folder / f"rank{rank}", every_n_train_steps=save_every, save_last=True, save_top_k=1)
        trainer = Trainer(**QUIET, **limits, callbacks=[saver], default_root_dir=folder)
        source = make((rank, world), num_workers=workers)
        if stop_at is None:
            trainer.fit(module, source, ckpt_path=resume)
        else:
            with pytest.raises(SystemExit):
                trainer.fit(module, source, ckpt_path=resume)
        seen.append(module.seen)
    return together(seen)


WORLDS = [(1, 1, 3), (1, 1, 8), (2, 2, 3), (1, 2, 3), (1, 2, 8), (1, 2, 11), (2, 1, 1), (2, 1, 4), (2, 1, 5)]


@pytest.mark.parametrize("stepping", [False, True])
@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
@pytest.mark.parametrize(("before", "after", "cut"), WORLDS)
def test_a_cut_and_resumed_run_sees_the_straight_runs_keys(
    make, expected, tmp_path, before, after, cut, limit, stepping
):
    """Cuts in the middle, at an epoch's end and in the second epoch; at an odd cursor where ranks double."""
    limits = {"max_epochs": 3} if limit == "max_epochs" else {"max_steps": cut + 7, "max_epochs": -1}
    seen = part(make, before, limits, tmp_path / "a", stop_at=cut, stepping=stepping)
    assert len(seen) == cut * before
    seen += part(make, after, limits, tmp_path / "b", tmp_path / "a/rank0/last.ckpt", stepping=stepping)
    assert seen == expected[: len(seen)]
    if limit == "max_steps":
        assert len(seen) == cut * before + 7 * after
    else:  # two ranks from an odd cursor end with a step whose second batch is the next epoch's
        assert len(seen) == 3 * NUM_BATCHES + cut * before % after


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("workers", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_workers_may_change_between_cuts(make, expected, tmp_path, workers, limit):
    limits = {"max_epochs": 2} if limit == "max_epochs" else {"max_steps": 12, "max_epochs": -1}
    seen = part(make, 1, limits, tmp_path / "a", None, 3, workers=workers[0])
    seen += part(make, 1, limits, tmp_path / "b", tmp_path / "a/rank0/last.ckpt", 6, workers=workers[1])
    seen += part(make, 1, limits, tmp_path / "c", tmp_path / "b/rank0/last.ckpt", workers=workers[2])
    assert seen == expected[: 16 if limit == "max_epochs" else 12]


def test_a_resumed_run_resumes_again(make, expected, tmp_path):
    """From one rank to two at an odd cursor, on to four, back to one; epochs keep their ends."""
    limits, seen = {"max_epochs": 4}, []
    resume = None
    for number, (world, stop_at) in enumerate([(1, 3), (2, 4), (4, 1), (1, 5)]):
        folder = tmp_path / str(number)
        seen += part(make, world, limits, folder, resume, stop_at)
        resume = folder / "rank0/last.ckpt"
    seen += part(make, 1, limits, tmp_path / "end", resume)
    assert seen == expected[: 4 * NUM_BATCHES]


def test_what_a_checkpoint_between_two_saves_missed_is_done_again(make, expected, tmp_path):
    seen = part(make, 1, {"max_epochs": 2}, tmp_path / "a", None, 5, save_every=2)
    again = part(make, 1, {"max_epochs": 2}, tmp_path / "b", tmp_path / "a/rank0/last.ckpt")
    assert seen == expected[:5] and again == expected[4:16]


def test_a_checkpoint_of_an_epochs_end_begins_the_next_epoch(make, expected, tmp_path):
    saver = ModelCheckpoint(tmp_path, every_n_epochs=1, save_last=True, save_on_train_epoch_end=True)
    first, second = Keys(), Keys()
    Trainer(**QUIET, max_epochs=1, callbacks=[saver]).fit(first, make())
    Trainer(**QUIET, max_epochs=3, enable_checkpointing=False).fit(second, make(), ckpt_path=tmp_path / "last.ckpt")
    assert first.seen + second.seen == expected[: 3 * NUM_BATCHES]


def test_validating_a_checkpoint_does_not_move_a_later_fit(make, expected, tmp_path):
    part(make, 1, {"max_epochs": 1}, tmp_path / "a", None, 3)
    source, module = make(), Keys()
    source.sources["val"] = source.sources["train"]
    module.validation_step = lambda batch, batch_idx: None
    trainer = Trainer(**QUIET, max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, limit_val_batches=1)
    trainer.validate(module, source, ckpt_path=tmp_path / "a/rank0/last.ckpt", verbose=False)
    trainer.fit(module, source)
    assert module.seen == expected[:NUM_BATCHES]


def test_no_sample_stands_twice_in_an_epoch_for_any_ranks_and_workers(make, expected, tmp_path):
    """Two shards, and up to four ranks with two workers each."""
    for world, workers in ((1, 0), (2, 2), (4, 2)):
        seen = part(make, world, {"max_epochs": 1}, tmp_path / str(world), workers=workers)
        assert Counter(chain.from_iterable(seen)) == Counter(f"r{n}" for n in range(15))
        assert seen == expected[:NUM_BATCHES]


def command(shards, overlay, folder, *more):
    script = Path(__file__).with_name("resuming.py")
    folder.mkdir(exist_ok=True)
    return [sys.executable, str(script), str(shards), str(overlay), str(folder), *map(str, more)]


def environment():
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def seen_by(folder, rank=0):
    """Step -> ids, and the check that a step that is done again sees what it saw before."""
    steps = {}
    path = folder / f"seen.{rank}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        step, ids = line.split(" ")
        assert steps.setdefault(int(step), ids.split(",")) == ids.split(",")
    return steps


def test_a_killed_run_resumes_exactly(shards, overlay, expected, tmp_path):
    """SIGKILL early, at an epoch's end and in the second epoch; with no, one and two workers, and none at the end."""
    for kills, (at, workers) in enumerate([(3, 0), (8, 1), (13, 2)]):
        run = subprocess.Popen(
            command(shards, overlay, tmp_path, "--epochs", 3, "--pause", 0.05, "--workers", workers),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while len(seen_by(tmp_path)) < at:
            assert run.poll() is None and time.monotonic() < deadline, f"the run ended before kill {kills}"
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    subprocess.run(
        command(shards, overlay, tmp_path, "--epochs", 3), env=environment(), check=True, capture_output=True
    )
    steps = seen_by(tmp_path)
    assert [steps[step] for step in range(24)] == expected[:24] and len(steps) == 24


def test_two_processes_finish_with_equal_counts_and_the_straight_runs_keys(shards, expected, overlay, llava, tmp_path):
    """Gloo; first one process to an odd cursor, then two, from its checkpoint. Fifteen samples."""
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True, save_top_k=1)
    first = Trainer(**QUIET, max_steps=3, max_epochs=-1, callbacks=[saver])
    first.fit(Keys(), data(shards, overlay, None, llava))
    run = command(shards, overlay, tmp_path, "--epochs", 2, "--ranks", 2)
    subprocess.run(run, env=environment(), check=True, capture_output=True, timeout=200)
    ranks = [list(seen_by(tmp_path, rank).values()) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 7
    assert together(ranks) == expected[3:17]


def test_one_process_goes_on_where_two_stopped_at_a_number_of_steps(shards, expected, overlay, llava, tmp_path):
    """Gloo; `estimated_stepping_batches` is asked for on both sides."""
    run = command(shards, overlay, tmp_path, "--steps", 6, "--ranks", 2, "--stepping")
    subprocess.run(run, env=environment(), check=True, capture_output=True, timeout=200)
    ranks = [list(seen_by(tmp_path, rank).values()) for rank in range(2)]
    module = Keys(stepping=True)
    last = Trainer(**QUIET, max_steps=10, max_epochs=-1, enable_checkpointing=False, default_root_dir=tmp_path)
    last.fit(module, data(shards, overlay, None, llava), ckpt_path=tmp_path / "last.ckpt")
    assert together(ranks) + module.seen == expected[:16]
