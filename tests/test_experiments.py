"""Every committed YAML runs: experiments for two steps with their family made tiny, recipes as commands that parse.

The demo also runs end to end, in small.
"""

import json
import pathlib

import pytest
import yaml

from lit_vpo.cli import TRAINING, _parser, main
from lit_vpo.datamodules import write_overlay
from lit_vpo.recipe_file import read_recipe
from lit_vpo.recipe_log import read_log

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))
CONFIGS = [path for path in FILES if "model" in yaml.safe_load(path.read_text())]
RECIPES = [path for path in FILES if "stages" in yaml.safe_load(path.read_text())]
EXACT = {
    "class_path": "lit_vpo.preferences.judges.ExactJudge",
    "init_args": {"scorer": "lit_vpo.datamodules.motion_world.score_caption"},
}
RANDOM = "lit_vpo.preferences.judges.RandomJudge"
TINY = {"qwen2_5_vl": "tiny_qwen2_5_vl", "llava_onevision": "tiny_llava_onevision"}


def test_every_file_is_a_configuration_or_a_recipe():
    assert sorted(CONFIGS + RECIPES) == FILES and CONFIGS and RECIPES


def tiny_of(model):
    """The tiny model of the same family; shipped bases and tiny models stand for themselves."""
    if model.startswith(("tiny_", "motion_world_")):
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
    kind = "habits" if config["data"]["class_path"] == "InstructionDataModule" else "pairs"
    for name in ("train", "val", "val_prompts", "val_questions", "predict", "candidates"):
        if name in arguments:
            overlay = {"train": kind, "val": kind, "val_questions": "questions"}.get(name, "habits")
            words += [f"--data.init_args.{name}.shards", str(world)]
            if "overlay" in arguments[name]:
                words += [f"--data.init_args.{name}.overlay", str(world / f"{overlay}.jsonl")]
            words += [f"--data.init_args.{name}.limit", "4"]
    if "questions" in arguments:
        pairs = str(tmp_path.with_name("question_pairs.jsonl"))
        main(["pairs", "questions", str(world / "questions.jsonl"), "--out", pairs])
        words += ["--data.init_args.questions.overlay", pairs]
    if config["data"]["class_path"] == "CurriculumDataModule":
        words += ["--trainer.max_steps", "-1"]  # a step of each of the four difficulties
        for name in {"train", "val"} & arguments.keys():
            words += [f"--data.init_args.{name}.overlay", with_divisors(world / "pairs.jsonl", tmp_path)]
    if "warmup_steps" in config["model"]["init_args"]:
        one_step_rounds = config["data"]["class_path"] == "CurriculumDataModule"
        words += ["--model.init_args.warmup_steps", "0" if one_step_rounds else "1"]
    return words


def with_divisors(pairs, tmp_path):
    """The first pairs as if each came of another difficulty."""
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    made = [
        row | {"r": r, "perturbation": {"kind": "drop", "r": r}} for row, r in zip(rows, (16, 8, 4, 2), strict=False)
    ]
    write_overlay(tmp_path.with_name("stages.jsonl"), made)
    return str(tmp_path.with_name("stages.jsonl"))


def writes_elsewhere(config, tmp_path):
    """The same file with every path that a callback writes to under the test's own folder."""
    for callback in config["trainer"]["callbacks"]:
        if "path" in callback.get("init_args", {}):
            callback["init_args"]["path"] = str(tmp_path / "written")
        if callback["class_path"] == "PreferenceResampler":  # a judge of one's own stands there
            callback["init_args"]["judge"] = EXACT
        if callback["class_path"] == "SelfRetrospectiveResampler":  # tiny models prefer a place, whatever stands there
            callback["init_args"] |= {"judge": {"class_path": RANDOM}, "min_pairs": 1}
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


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_stage_of_a_recipe_is_a_command_that_parses(path, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    _, stages = read_recipe(path, {"run_dir": str(tmp_path)})
    for stage in stages:
        if stage.words[0] not in TRAINING:
            _parser().parse_args(list(stage.words))
            continue
        with pytest.raises(SystemExit) as done:
            main([*stage.words, "--print_config"])
        out, err = capsys.readouterr()
        assert done.value.code == 0, err
        config = yaml.safe_load(out)
        assert config["run_dir"].startswith(str(tmp_path))
        # the file's own folders stand only where this command does not look
        unread = {"train", "val", "val_prompts", "val_questions", "predict", "candidates"}
        unread = unread - {"predict"} if stage.words[0] == "predict" else {"predict"}
        for name in unread:
            config["data"]["init_args"].pop(name, None)
        assert "runs/" not in json.dumps(config), stage.name


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_fit_stage_can_go_on_and_names_what_it_makes(path):
    for stage in read_recipe(path)[1]:
        if stage.words[0] == "fit":
            run_dir = pathlib.Path(stage.words[stage.words.index("--run_dir") + 1])
            assert stage.out == run_dir
            config = yaml.safe_load((ROOT / stage.words[2]).read_text())
            keeps = any(c["class_path"] == "ModelCheckpoint" for c in config["trainer"]["callbacks"])
            assert ("--ckpt_path" in stage.words) == keeps


def differences(recipe, stage_name, arm, own_names, monkeypatch, capsys):
    """What each arm's fit is configured otherwise in than one of them, but for where it reads and writes."""
    monkeypatch.chdir(ROOT)
    configs = {}
    for stage in read_recipe(ROOT / "experiments" / "motion_world" / recipe, seeds="0")[1]:
        if stage.name == stage_name:
            with pytest.raises(SystemExit):
                main([*stage.words, "--print_config"])
            configs[stage.out.name.removesuffix("-0")] = flat(yaml.safe_load(capsys.readouterr().out))
    base = configs[arm].items()
    changed = {
        name: {key.split("init_args.")[-1]: value for key, value in config.items() - base if key not in own_names}
        for name, config in configs.items()
    }
    return changed, base


def test_the_controls_of_mrdpo_differ_from_it_in_what_they_say_alone(monkeypatch, capsys):
    names = {"run_dir", "data.init_args.train.overlay", "data.init_args.val.overlay"}
    changed, base = differences("mrdpo.yaml", "rounds", "mrdpo", names, monkeypatch, capsys)
    (boundary,) = (name for name, value in base if value == "lit_vpo.callbacks.LoRAMergeReinit")
    assert changed == {
        "mrdpo": {},
        "dpo_only": {"ce_weight": 0.0},
        "shuffled": {"ce_weight": 0.0, "shuffle_labels": True},
        "sft_gt": {"loss_weight": 0.0},
        "sft_chosen": {"loss_weight": 0.0, "nll_weight": 1.0, "ce_weight": 0.0},
        "one_round": {"round_steps": 400},
        "no_merge": {
            "reference": "second_adapter",
            boundary: "lit_vpo.callbacks.ReferenceRefresh",
            "new_weight": 1.0,
        },
        "neither": {boundary: "lightning.pytorch.Callback"},
        "dpo_one_round": {"ce_weight": 0.0, "round_steps": 400},
        "dpo_neither": {"ce_weight": 0.0, boundary: "lightning.pytorch.Callback"},
    }


def test_the_controls_of_isr_differ_from_it_in_who_judges_and_by_what_alone(monkeypatch, capsys):
    changed, _ = differences("isr_dpo.yaml", "iterations", "isr", {"run_dir"}, monkeypatch, capsys)
    judges, read_nothing = "lit_vpo.preferences.judges", {"context": "none"}
    assert changed == {
        "isr": {},
        "self_rewarding": read_nothing,
        "stale": {"context": "stale"},
        "other": {"context": "other"},
        "oracle": {"context": "oracle"},
        "random": read_nothing | {"judge.class_path": f"{judges}.RandomJudge", "seed": 0},
        "longer": read_nothing | {"judge.class_path": f"{judges}.LongerWins"},
    }


def test_the_controls_of_tempo_differ_from_it_in_what_they_say_alone(monkeypatch, capsys):
    names = {"run_dir", "data.init_args.train.overlay", "data.init_args.val.overlay"}
    changed, _ = differences("tempo.yaml", "stages", "staged", names, monkeypatch, capsys)
    assert changed == {
        "staged": {},
        "none": {"pacing": "none"},
        "reverse": {"pacing": "reverse"},
        "random": {"pacing": "random"},
        "blanked": {"blank_videos": True, "check_video": False},
        "matched": {},  # its overlays hold other pairs
        "transferred": {"other_policy": True},
    }


def flat(value, name=""):
    """Dotted names to plain values."""
    if not isinstance(value, dict | list):
        return {name.removeprefix("."): value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: each for part, inner in items for key, each in flat(inner, f"{name}.{part}").items()}


BASE = ROOT / "lit_vpo" / "models" / "assets" / "bases" / "motion_world_base"


@pytest.mark.slow
@pytest.mark.skipif(not (BASE / "model.safetensors").is_file(), reason="the shipped base is not there; make base")
def test_the_demo_in_small_ends_with_its_table_and_a_second_launch_does_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = {"num_train": "24", "num_test": "8", "num_held_out": "4", "num_workers": "0"}
    small |= {"max_steps": "5", "warmup_steps": "1"}  # metrics are logged every 5
    words = ["run", "experiments/demo.yaml"]
    for key, value in {**small, "run_dir": str(tmp_path)}.items():
        words += ["--set", f"{key}={value}"]
    main(words)
    for name in ("table.md", "curves.png", "pairs.html", "dpo/config.yaml", "dpo/checkpoints/last.ckpt"):
        assert (tmp_path / name).stat().st_size > 0
    table = json.loads((tmp_path / "table.json").read_text())
    before, after = table["models"]["before"], table["models"]["after"]
    assert table["num_rows"] == table["num_clips"] == 8
    assert len(before) == len(after) == 1 and before[0]["name"] == after[0]["name"] == "motion_world_base"
    assert before[0]["hash"] != after[0]["hash"] and before[0]["base"] == after[0]["base"]
    rows = read_log(tmp_path)
    capfd.readouterr()
    main(words)
    assert read_log(tmp_path) == rows and capfd.readouterr().out.count("done before") == len(rows) // 2
