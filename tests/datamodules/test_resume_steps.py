"""A run that accumulates, cut anywhere and resumed, takes the optimizer steps of the straight run."""

from itertools import chain

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from resuming import QUIET, Keys, data

from lit_vpo.datamodules.overlay import write_overlay

NUM_BATCHES, ACCUMULATE, EPOCHS = 8, 3, 4  # steps of 3, 3 and 2 batches


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """Eight batches of two rows of text alone."""
    row = {"prompt": "What?", "ground_truth": "a cat", "media": {"video": None}}
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_overlay(path, [{"key": f"s{n % 6}", "id": f"r{n}", **row} for n in range(16)])
    return path


@pytest.fixture
def make(shards, overlay, llava):
    def made(place=(0, 1), validate=False, **options):
        source = data(shards, overlay, place, llava, **options)
        source.sources["val"] = source.sources["train"] if validate else None
        return source

    return made


class SavesEachBatch(Callback):
    """Also within an optimizer step, as a checkpoint by time may be."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.path)


def fit(make, folder, resume=None, stop_at=None, place=(0, 1), saving=None, **options):
    """One process; returns its module."""
    module = Keys(stop_at)
    if saving == "batches":
        saver = SavesEachBatch(folder / "last.ckpt")
    else:
        saver = ModelCheckpoint(folder, save_last=True, save_top_k=1, **(saving or {"every_n_train_steps": 1}))
    options = {"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATE} | options
    trainer = Trainer(**QUIET, **options, callbacks=[saver], default_root_dir=folder)
    if stop_at is None:
        trainer.fit(module, make(place), ckpt_path=resume)
    else:
        with pytest.raises(SystemExit):
            trainer.fit(module, make(place), ckpt_path=resume)
    return module


@pytest.fixture
def straight(make, tmp_path):
    steps = fit(make, tmp_path / "straight").steps
    assert [len(step) for step in steps] == [3, 3, 2] * EPOCHS
    return steps


# batches of each life: within a step, at a step's end, at an epoch's end, right after one
LIVES = [(4,), (6,), (8,), (8, 7), (8, 6, 2), (8, 8, 8), (9, 8, 5), (3, 5, 3), (7, 1, 9, 2), (16, 3, 4), (11, 13)]


@pytest.mark.parametrize("lives", LIVES)
@pytest.mark.parametrize("saving", [{"every_n_train_steps": 1}, "batches", {"save_on_exception": True}])
@pytest.mark.parametrize("limit", [{"max_epochs": EPOCHS}, {"max_steps": 3 * EPOCHS, "max_epochs": -1}])
def test_cut_again_and_again_it_takes_the_straight_runs_optimizer_steps(make, straight, tmp_path, lives, saving, limit):
    """Saved at every step, after every batch, and by the exception, with a batch handed over but not trained on."""
    steps, resume = [], None
    for number, stop_at in enumerate(lives):
        folder = tmp_path / str(number)
        steps += fit(make, folder, resume, stop_at, saving=saving, **limit).steps
        last = folder / "last.ckpt"
        resume = last if last.exists() else resume
    steps += fit(make, tmp_path / "end", resume, **limit).steps
    assert steps == straight


@pytest.mark.parametrize("worlds", [(4, 1, 2), (1, 2, 4), (2, 1, 4), (4, 2, 1)])
@pytest.mark.parametrize("cuts", [(2, 3), (1, 2), (4, 2), (2, 8), (3, 4)])
def test_other_ranks_keep_whole_optimizer_steps_and_see_every_key(make, tmp_path, worlds, cuts):
    """Cut within steps and at epochs' ends; what a step holds is what its batches say it holds.

    From an odd cursor, the epoch's last step takes what it lacks from the next epoch.
    """
    expected = fit(make, tmp_path / "straight", max_epochs=EPOCHS + 1).seen
    seen, resume = [], None
    for number, (world, stop_at) in enumerate(zip(worlds, (*cuts, None), strict=True)):
        folder = tmp_path / str(number)
        ranks = [fit(make, folder / str(rank), resume, stop_at, (rank, world)) for rank in range(world)]
        assert len({len(rank.seen) for rank in ranks}) == 1
        for step in range(len(ranks[0].steps)):
            batches = [batch for rank in ranks for batch in rank.steps[step]]
            taken = sum(len(each) for each in ranks[0].steps[:step])
            held = [rank.windows[taken] * world * ACCUMULATE for rank in ranks]
            assert held == pytest.approx([len(list(chain.from_iterable(batches)))] * world)
        seen += [batch for at in range(ranks[0].stepped) for batch in (rank.seen[at] for rank in ranks)]
        last = folder / "0/last.ckpt"
        resume = last if last.exists() else resume
    assert seen == expected[: len(seen)] and EPOCHS * NUM_BATCHES <= len(seen) < EPOCHS * NUM_BATCHES + max(worlds)


@pytest.mark.parametrize(("before", "after", "cut"), [(1, 2, 4), (2, 1, 2), (1, 2, 3), (4, 1, 1), (1, 1, 5)])
def test_each_epochs_end_is_validated_whatever_the_ranks(make, tmp_path, before, after, cut):
    first = fit(make, tmp_path / "a", None, cut, (0, before), accumulate_grad_batches=1)
    source = make((0, after))
    source.sources["val"] = source.sources["train"]
    second = Keys()
    trainer = Trainer(**QUIET, max_epochs=3, enable_checkpointing=False, num_sanity_val_steps=0, limit_val_batches=1)
    trainer.fit(second, source, ckpt_path=tmp_path / "a/last.ckpt")
    rest = -(-(NUM_BATCHES - len(first.seen) * before) // after)
    assert second.validated_after == [rest, rest + NUM_BATCHES // after, rest + 2 * NUM_BATCHES // after]


@pytest.mark.parametrize("saving", ["batches", {"save_on_exception": True}])
@pytest.mark.parametrize("cut", [4, 7, 8, 10])
def test_counts_that_others_read_are_those_of_the_straight_run(make, tmp_path, saving, cut):
    """Validation every fifth batch over all epochs, and the step that loggers write."""

    def noted(module, first=0):
        return [(batch, epoch, stepped) for batch, epoch, stepped in module.noted if batch >= first]

    options = {"val_check_interval": 5, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    options |= {"num_sanity_val_steps": 0, "max_epochs": 3}
    make_val = lambda place: make(place, validate=True)  # noqa: E731
    straight = fit(make_val, tmp_path / "straight", **options)
    fit(make_val, tmp_path / "cut", None, cut, saving=saving, **options)
    resumed = fit(make_val, tmp_path / "end", tmp_path / "cut/last.ckpt", **options)
    first = resumed.noted[0][0]
    assert first <= cut and resumed.noted == noted(straight, first)
    assert resumed.validated_at == [batch for batch in straight.validated_at if batch > first]
    assert straight.validated_at == [5, 10, 15, 20]


def test_settings_that_end_an_epoch_early_are_refused(make, tmp_path):
    for option in ({"limit_train_batches": 2}, {"limit_train_batches": 0.5}, {"overfit_batches": 1}):
        with pytest.raises(ValueError, match=r"bound the rows with data\.train\.limit"):
            Trainer(**QUIET, **option, max_epochs=1, default_root_dir=tmp_path).fit(Keys(), make())
    with pytest.raises(ValueError, match="reload_dataloaders_every_n_epochs would begin every epoch"):
        Trainer(**QUIET, reload_dataloaders_every_n_epochs=1, max_epochs=1).fit(Keys(), make())
    module = Keys()
    Trainer(**QUIET, fast_dev_run=2).fit(module, make())
    assert len(module.seen) == 2
