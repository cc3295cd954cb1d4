"""Two ranks with weights in shards learn, write and resume what one rank with whole weights does."""

import subprocess
import sys

import pytest
import sharded_run
import torch
from sharded_run import BOUNDARY, CASES, CUT, NAME, STEPS, batch, module_of, run, trainer_of
from torch.utils.data import DataLoader

from lit_vpo.models import load_model, weights_hash
from lit_vpo.models.loading import plain_name
from lit_vpo.sharding import for_checkpoint, full, gathering, split_like

pytestmark = pytest.mark.slow
SAME = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def one(folder):
    """Every case on one rank, its checkpoints in one/CASE."""
    return {case: run(case, folder / "one" / case) for case in CASES}


@pytest.fixture(scope="module")
def two(folder, one):
    """Every case on two, their checkpoints in two/CASE."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, sharded_run.__file__, str(folder)], check=True, timeout=900)
    return torch.load(folder / "two.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_sharded_learns_and_logs_what_unsharded_does(one, two, case):
    for kind in ("weights", "reference", "ledger"):
        torch.testing.assert_close(two[case][kind], one[case][kind], **SAME)
    torch.testing.assert_close(torch.tensor(two[case]["logged"]), torch.tensor(one[case]["logged"]), **SAME)
    assert len(one[case]["logged"]) == STEPS
    start = dict(load_model(NAME).named_parameters())
    moved = {
        plain_name(name)
        for name, tensor in one[case]["weights"].items()
        if plain_name(name) in start and (tensor - start[plain_name(name)]).abs().max() > 1e-3
    }
    layers = "model.language_model.layers."
    assert any(name.startswith(layers) for name in moved) == (case != "mix")  # unmerged, the adapter alone has moved
    assert len(one[case]["ledger"]) == (3 if case == "merge" else 0)


@pytest.mark.parametrize("case", CASES)
def test_cut_and_resumed_sharded_equals_straight_sharded(two, case):
    assert all(torch.equal(two[case]["resumed"][name], tensor) for name, tensor in two[case]["weights"].items())


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_an_unsharded_run_goes_on_sharded(one, two, case):
    torch.testing.assert_close(two[case]["from_one"], one[case]["weights"], **SAME)


@pytest.mark.parametrize("case, step", zip(CASES, [BOUNDARY, CUT, BOUNDARY], strict=True))
def test_a_checkpoint_of_a_sharded_run_goes_on_unsharded(folder, one, two, case, step):
    path = folder / "two" / case / f"step={step}.ckpt"
    resumed = run(case, folder / "resumed", resume=path, start=step)["weights"]
    torch.testing.assert_close(resumed, one[case]["weights"], **SAME)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_holds_what_that_of_an_unsharded_run_holds(folder, two, case):
    def shape(value):
        if isinstance(value, torch.Tensor):
            return value.shape, value.dtype
        if isinstance(value, dict):
            return {key: shape(each) for key, each in value.items() if key not in ("callbacks", "hyper_parameters")}
        return [shape(each) for each in value] if isinstance(value, list) else type(value)

    ours, theirs = (
        torch.load(folder / world / case / f"step={CUT}.ckpt", weights_only=True) for world in ("two", "one")
    )
    assert shape(ours) == shape(theirs)


@pytest.mark.parametrize("case", CASES)
def test_hashes_of_both_ranks_are_those_of_the_same_weights_unsharded(folder, two, case):
    module = module_of(case)
    loader = DataLoader([batch([0, 1])], batch_size=None)
    trainer_of().validate(module, loader, ckpt_path=folder / "two" / case / f"step={STEPS}.ckpt", verbose=False)
    assert two[case]["hashes"] == [[weights_hash(module.net), module.reference_hash()]] * 2


@pytest.mark.parametrize(
    "name, message",
    [
        ("plain", "checkpoints of ModelParallelStrategy are not those of unsharded runs; set trainer.strategy"),
        ("cache", "leave out reference_cache"),
        ("loss", "DPOLoss has parameters of its own, which are not sharded"),
        ("scores", "leave it and the prompts out of this run"),
        ("saves", "use the command export --to hf"),
        ("tower", "TowerModule keeps its weights whole on every rank; set trainer.strategy: ddp"),
        ("predict", "run predict on the checkpoint with trainer.strategy: auto"),
        ("prompts", "leave prompts out of validation"),
    ],
)
def test_what_cannot_run_on_shards_is_refused_with_the_fix(two, name, message):
    assert message in two["refused"][name]


def test_whole_tensors_and_networks_pass_through():
    tensor = torch.ones(3, requires_grad=True)
    assert torch.equal(full(tensor), tensor) and not full(tensor).requires_grad
    assert split_like(tensor, torch.zeros(3)) is tensor
    assert for_checkpoint({"a": tensor, "b": 1}) == {"a": tensor, "b": 1}
    assert gathering(torch.nn.Linear(1, 1), lambda: tensor) is tensor
