"""Transfer: pairs that one family wrote train another in one option, and the run says whose they were."""

import json
import pathlib

import pytest
import torch
import yaml

from lit_vpo.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
WRITER, LEARNER = "tiny_llava_onevision", "tiny_qwen2_5_vl"


def run(word, folder, world, model, source, overlay, *words):
    data = ["--data.init_args.num_frames", "2", "--data.init_args.size", "32"]
    data += [f"--data.init_args.{source}.shards", str(world), f"--data.init_args.{source}.overlay", str(overlay)]
    model_words = ["--model.init_args.model", model, "--model.init_args.max_new_tokens", "8"]
    main([word, "-c", "experiments/smoke/dpo.yaml", "--run_dir", str(folder), *model_words, *data, *words])


def test_pairs_of_one_family_train_another_and_the_run_says_whose_they_are(world, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    prompts, answers, pairs = (tmp_path / f"{name}.jsonl" for name in ("prompts", "answers", "pairs"))
    main(["pairs", "prompts", str(world), "--out", str(prompts), "--kind", "reverse", "--r", "2", "--num-frames", "2"])
    run(
        "predict", tmp_path / "predict", world, WRITER, "predict", prompts, "--return_predictions", "false",
        "--model.init_args.temperature", "1", "--trainer.callbacks+=GenerationWriter",
        "--trainer.callbacks.path", str(answers),
    )  # fmt: skip
    main(["pairs", "build", str(answers), "--out", str(pairs), "--filter", "equal"])
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    digest = rows[0]["meta"]["model"]["hash"]
    fit = "fit", tmp_path / "run", world, LEARNER, "train", pairs, "--trainer.max_steps", "1"
    fit += ("--trainer.limit_val_batches", "0")
    with pytest.raises(ValueError, match=rf"another policy: {len(rows)} of {WRITER} \({digest[:12]}\)"):
        run(*fit)
    run(*fit, "--data.init_args.other_policy", "true", "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.every_n_train_steps", "1", "--trainer.callbacks.filename", "whose")  # fmt: skip
    said = f"answers of the training rows: 0 of this policy, {len(rows)} of {WRITER} ({digest[:12]}), 0 of nobody named"
    versions = sorted((tmp_path / "run" / "csv").glob("*/hparams.yaml"))
    # BaseLoader: Lightning writes the paths of configuration files as Python objects, which a safe loader refuses
    assert yaml.load(versions[-1].read_text(), Loader=yaml.BaseLoader)["writers"] == said
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "whose.ckpt", weights_only=True)
    assert checkpoint["lit_vpo"]["writers"] == said
