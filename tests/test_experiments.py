"""Every committed YAML runs: experiments for two steps with their family made tiny, recipes as commands that parse."""

import pathlib

import pytest
import yaml

from lit_vpo.cli import main
from lit_vpo.recipe import read_recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))
CONFIGS = [path for path in FILES if "model" in yaml.safe_load(path.read_text())]
RECIPES = [path for path in FILES if "stages" in yaml.safe_load(path.read_text())]
TINY = {"qwen2_5_vl": "tiny_qwen2_5_vl", "llava_onevision": "tiny_llava_onevision"}


def test_every_file_is_a_configuration_or_a_recipe():
    assert sorted(CONFIGS + RECIPES) == FILES and CONFIGS and RECIPES


def tiny_of(model):
    """The tiny model of the same family; shipped bases and tiny models stand for themselves."""
    if model.startswith("tiny_") or model == "motion_world_base":
        return model
    if model.startswith("runs/base/"):
        return TINY["qwen2_5_vl"]
    return TINY["qwen2_5_vl" if "qwen2.5-vl" in model.lower() else "llava_onevision"]


def overrides(path, world, tmp_path):
    """Words that replace the model by its tiny twin and every source by the synthetic world."""
    config = yaml.safe_load(path.read_text())
    arguments = config["data"]["init_args"]
    words = ["--run_dir", str(tmp_path), "--model.init_args.model", tiny_of(config["model"]["init_args"]["model"])]
    words += ["--tracking", "csv"]
    kind = "pairs" if config["data"]["class_path"] == "PreferenceDataModule" else "habits"
    for name in ("train", "val", "val_prompts", "val_questions", "predict"):
        if name in arguments:
            overlay = {"train": kind, "val": kind, "val_questions": "questions"}.get(name)
            words += [f"--data.init_args.{name}.shards", str(world)]
            words += [f"--data.init_args.{name}.overlay", str(world / f"{overlay}.jsonl") if overlay else "null"]
            words += [f"--data.init_args.{name}.limit", "4"]
    if "warmup_steps" in config["model"]["init_args"]:
        words += ["--model.init_args.warmup_steps", "1"]
    return words


def writes_elsewhere(config, tmp_path):
    """The same file with every path that a callback writes to under the test's own folder."""
    for callback in config["trainer"]["callbacks"]:
        if "path" in callback.get("init_args", {}):
            callback["init_args"]["path"] = str(tmp_path / "written")
        if callback["class_path"] == "ModelCheckpoint":
            callback["init_args"]["every_n_train_steps"] = 1
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "experiments")))
def test_every_experiment_runs_two_steps(path, world, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    copy = tmp_path / path.name
    copy.write_text(yaml.safe_dump(writes_elsewhere(yaml.safe_load(path.read_text()), tmp_path), sort_keys=False))
    config = yaml.safe_load(path.read_text())
    override = yaml.safe_load((ROOT / "tests" / "conf" / "tiny_override.yaml").read_text())
    if config["model"]["class_path"] == "TowerModule":  # its data module renders by itself
        override["data"]["init_args"] = {"clips_per_batch": 2, "num_workers": 0}
        del override["trainer"]["val_check_interval"]
    laid_over = tmp_path / "override.yaml"
    laid_over.write_text(yaml.safe_dump(override))
    main(["fit", "-c", str(copy), "-c", str(laid_over), *overrides(path, world, tmp_path / "run")])
    if any(c["class_path"] == "ModelCheckpoint" for c in config["trainer"]["callbacks"]):
        assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    if any(c["class_path"] == "SavePretrained" for c in config["trainer"]["callbacks"]):
        assert (tmp_path / "written" / "model.safetensors").is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_stage_of_a_recipe_is_a_command_that_parses(path, monkeypatch):
    from lit_vpo.cli import TRAINING, _parser

    monkeypatch.chdir(ROOT)
    _, stages = read_recipe(path)
    for stage in stages:
        if stage.words[0] in TRAINING:
            assert stage.words[1] == "-c" and pathlib.Path(stage.words[2]).is_file()
        else:
            _parser().parse_args(list(stage.words))
