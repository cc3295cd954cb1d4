"""The door: runs of the committed smoke experiments, resumption, and what it refuses."""

import json
import pathlib
import shutil

import pytest
import torch
import yaml

from lit_vpo.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMOKE = {name: str(ROOT / "experiments" / "smoke" / f"{name}.yaml") for name in ("sft", "dpo")}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def fit(name, run_dir, *words):
    main(["fit", "-c", SMOKE[name], "--run_dir", str(run_dir), *map(str, words)])


def last(run_dir):
    return torch.load(pathlib.Path(run_dir) / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_tensors(one, two):
    assert one.keys() == two.keys() and len(one) > 0
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def metrics(run_dir):
    """All logged values by name, over the versions of a run."""
    import csv

    values = {}
    for path in sorted(pathlib.Path(run_dir).glob("csv/*/metrics.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value:
                        values.setdefault(name, []).append(float(value))
    return values


@pytest.mark.parametrize("name", ["sft", "dpo"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cut_and_resumed_equals_straight(name, workers, tmp_path):
    common = (
        "--data.init_args.num_workers", workers, "--data.init_args.batch_size", 2,
        "--trainer.accumulate_grad_batches", 2, "--trainer.val_check_interval", 100, "--trainer.max_steps", 10,
        "--trainer.log_every_n_steps", 1,
    )  # fmt: skip
    fit(name, tmp_path / "straight", *common)
    with pytest.raises(RuntimeError, match="the power went out"):
        fit(
            name,
            tmp_path / "cut",
            *common,
            "--trainer.callbacks+=tests_interrupt.Interrupt",
            "--trainer.callbacks.step",
            7,
        )
    assert last(tmp_path / "cut")["global_step"] == 5  # where the checkpoint callback last saved
    fit(name, tmp_path / "cut", *common, "--ckpt_path", "last")
    straight, resumed = last(tmp_path / "straight"), last(tmp_path / "cut")
    assert straight["global_step"] == resumed["global_step"] == 10
    assert_same_tensors(straight["state_dict"], resumed["state_dict"])


@pytest.fixture(scope="module", autouse=True)
def interrupt_module(tmp_path_factory):
    """A user's package with a callback that stops the run at a step."""
    import sys

    folder = tmp_path_factory.mktemp("user")
    (folder / "tests_interrupt.py").write_text(
        "from lit_vpo.callbacks import StepCallback\n\n\n"
        "class Interrupt(StepCallback):\n"
        "    def __init__(self, step: int) -> None:\n"
        "        super().__init__()\n"
        "        self.step = step\n\n"
        "    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:\n"
        "        if trainer.global_step >= self.step:\n"
        "            raise RuntimeError('the power went out')\n"
    )
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def dpo_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("dpo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fit("dpo", run_dir, "--tracking", "wandb_offline")
    return run_dir


def test_run_dir_owns_logs_checkpoints_and_config(dpo_run):
    assert (dpo_run / "config.yaml").is_file() and (dpo_run / "csv" / "version_0" / "metrics.csv").is_file()
    assert (dpo_run / "checkpoints" / "last.ckpt").exists()
    assert any((dpo_run / "wandb").glob("offline-run-*"))
    config = yaml.safe_load((dpo_run / "config.yaml").read_text())
    assert config["model"]["init_args"]["loss"]["init_args"]["beta"] == 0.1


def test_the_saved_config_is_a_valid_input_and_says_the_same(dpo_run, capsys):
    with pytest.raises(SystemExit) as done:
        main(["fit", "-c", str(dpo_run / "config.yaml"), "--print_config"])
    assert done.value.code == 0
    printed, saved = yaml.safe_load(capsys.readouterr().out), yaml.safe_load((dpo_run / "config.yaml").read_text())
    assert printed["model"] == saved["model"] and printed["trainer"] == saved["trainer"]


def test_the_names_of_the_field_are_logged_and_step_0_is_ln_2(dpo_run):
    logged = metrics(dpo_run)
    for name in (
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
        "loss/dpo", "loss/nll_chosen", "kl", "length_ratio", "grad_norm", "logps_drift/chosen", "val/loss/dpo",
        "data/num_quarantined",
    ):  # fmt: skip
        assert name in logged, f"{name} not in {sorted(logged)}"
    assert logged["loss/dpo"][0] == pytest.approx(0.693147, abs=1e-5)
    assert logged["rewards/margins"][0] == pytest.approx(0, abs=1e-6)


def test_the_pair_table_holds_pairs_with_margins_and_generations(dpo_run):
    lines = [json.loads(line) for line in (dpo_run / "tables" / "step-8.jsonl").read_text().splitlines()]
    pairs = [line for line in lines if line["margin"] is not None]
    assert len(pairs) == 8 and all(p["chosen"] and p["rejected"] and p["chosen"] != p["rejected"] for p in pairs)
    assert any(p["margin"] != 0 for p in pairs) and len([p for p in lines if p["generation"] is not None]) == 4


def test_checkpoints_hold_the_adapter_alone(dpo_run):
    checkpoint = last(dpo_run)
    assert checkpoint["state_dict"] and all("lora_" in name for name in checkpoint["state_dict"])


def test_validate_without_callbacks_loads_the_same_model(dpo_run, tmp_path):
    config = yaml.safe_load((ROOT / "experiments" / "smoke" / "dpo.yaml").read_text())
    del config["trainer"]["callbacks"]
    config["data"]["init_args"].pop("val_prompts")
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(config))
    path = str(dpo_run / "checkpoints" / "last.ckpt")
    main(["validate", "-c", str(tmp_path / "bare.yaml"), "--run_dir", str(tmp_path / "bare"), "--ckpt_path", path])
    straight = str(tmp_path / "with")
    main(["validate", "-c", SMOKE["dpo"], "--run_dir", straight, "--ckpt_path", path])
    bare, full = metrics(tmp_path / "bare"), metrics(straight)
    assert bare["val/loss/dpo"] == full["val/loss/dpo"] and bare["val/loss/dpo"][0] != pytest.approx(0.693147, abs=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("nll_weight", 0.5, "nll_weight"),
        ("optimizer.init_args.lr", 0.5, "optimizer"),
        ("loss.init_args.beta", 0.5, "loss"),
        ("lora.r", 4, "lora"),
    ],
)
def test_resuming_from_a_file_with_other_settings_is_refused(dpo_run, tmp_path, option, value, named):
    path = str(dpo_run / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=rf"trained with other settings \({named}: "):
        fit("dpo", tmp_path / "run", "--ckpt_path", path, f"--model.init_args.{option}", value)


def test_resuming_from_a_file_with_the_same_settings_goes_on(dpo_run, tmp_path):
    path = str(dpo_run / "checkpoints" / "last.ckpt")
    fit("dpo", tmp_path / "run", "--ckpt_path", path, "--trainer.max_steps", 15)
    assert last(tmp_path / "run")["global_step"] == 15
    with pytest.raises(ValueError, match="does not exist"):
        fit("dpo", tmp_path / "other", "--ckpt_path", tmp_path / "nothing.ckpt")


def test_last_without_a_checkpoint_is_no_silent_restart(dpo_run, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(dpo_run, lost, symlinks=True)
    (lost / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(ValueError, match=r"has no last.ckpt.*--ckpt_path .*step=10.ckpt"):
        fit("dpo", lost, "--ckpt_path", "last")
    shutil.rmtree(lost / "checkpoints")
    with pytest.raises(ValueError, match="logged steps but no checkpoint"):
        fit("dpo", lost, "--ckpt_path", "last")
    fit("dpo", tmp_path / "first", "--ckpt_path", "last", "--trainer.max_steps", 5)  # a first launch may say it too
    assert last(tmp_path / "first")["global_step"] == 5


def test_a_second_run_in_a_used_folder_is_refused(dpo_run):
    with pytest.raises(ValueError, match="already holds a run"):
        fit("dpo", dpo_run)


def test_predict_writes_every_prompt_once_with_the_models_name(tmp_path):
    main(
        ["predict", "-c", SMOKE["dpo"], "--run_dir", str(tmp_path), "--return_predictions", "false",
         "--data.init_args.predict.shards", "experiments/smoke/world",
         "--trainer.callbacks+=GenerationWriter", "--trainer.callbacks.path", str(tmp_path / "g.jsonl")]
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"train-0-{i:06d}" for i in range(8)]
    assert all({"response", "finished", "events"} <= row.keys() for row in rows)
    assert {row["model"]["name"] for row in rows} == {"tiny_qwen2_5_vl"} and not (tmp_path / "g.jsonl.part").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model.init_args.loss.init_args.beta", "0"), "beta"),
        (("--model.init_args.model", "no_such_model"), "no_such_model"),
        (("--model.init_args.family", "no_such_family"), "known"),
        (("--data.init_args.train.shards", "no_such_folder"), "no_such_folder"),
        (("--model.init_args.tuning", "full"), "tuning: lora"),
    ],
)
def test_wrong_settings_are_errors_before_training(words, message, tmp_path, capsys):
    with pytest.raises((ValueError, SystemExit)) as error:
        fit("dpo", tmp_path, *words)
    assert message in str(error.value) + capsys.readouterr().err
    assert not list(tmp_path.glob("csv/*/metrics.csv"))


def test_a_broken_video_is_quarantined_and_the_run_goes_on(tmp_path):
    from lit_vpo.datamodules.manifest import Manifest

    world = tmp_path / "world"
    shutil.copytree(ROOT / "experiments" / "smoke" / "world", world)
    victim = Manifest.load(world).samples[0]
    with (world / victim.shard).open("r+b") as file:  # flip bytes in the middle of its video
        offset, size, _ = victim.members["mp4"]
        file.seek(offset + size // 2)
        file.write(b"\0" * 64)
    words = ("--data.init_args.train.shards", world, "--data.init_args.quarantine", tmp_path)
    fit("dpo", tmp_path / "run", *words)
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {victim.key} and all("crc32" in line["reason"] for line in lines)
    assert metrics(tmp_path / "run")["data/num_quarantined"][-1] == len(lines) > 0
    with pytest.raises(Exception, match="crc32"):
        fit("dpo", tmp_path / "stop", *words, "--data.init_args.on_bad_sample", "raise")


def test_commands_are_named_and_wrong_ones_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(word in out for word in ("fit", "predict", "run", "data", "pairs", "compare", "curves", "export"))
    with pytest.raises(SystemExit):
        main(["dance"])
    with pytest.raises(ValueError, match="KEY=VALUE"):
        main(["run", "experiments/demo.yaml", "--set", "seed"])
