"""ISR-DPO in stages around `predict` gives what the callback gives within a fit."""

import json
import pathlib

import pytest
import yaml

from lit_vpo.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
OF_THE_FIT = ("model", "sampling", "judge", "meta")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def config(world, tmp_path):
    """The committed configuration in small, and its wordings as a file of their own."""
    config = yaml.safe_load((ROOT / "experiments" / "motion_world" / "isr_dpo" / "dpo.yaml").read_text())
    callbacks = {each["class_path"]: each for each in config["trainer"]["callbacks"]}
    callbacks["SelfRetrospectiveResampler"]["init_args"] |= {"min_pairs": 1, "temperature": 1.0}
    callbacks["ModelCheckpoint"]["init_args"] = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
    del config["trainer"]["val_check_interval"]
    config["trainer"] |= {"max_steps": 2, "callbacks": [each for name, each in callbacks.items() if name != "BaseKL"]}
    config["model"]["init_args"] |= {"max_new_tokens": 80, "round_steps": 1, "warmup_steps": 0, "check_video": False}
    shards = str(world)
    sources = {"train": {"shards": shards}, "candidates": {"shards": shards, "limit": 2}}
    small = {"num_frames": 4, "batch_size": 2, "eval_batch_size": 2, "world_multiple": 1}
    config["data"]["init_args"] = sources | small
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    prompts = callbacks["SelfRetrospectiveResampler"]["init_args"]["prompts"]
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    return str(path)


def fit(config, folder, *words):
    main(["fit", "-c", config, "--run_dir", str(folder), *words])


def predict(config, world, out, *words, source="predict", overlay=None):
    asked = {"limit": 2} if overlay is None else {"overlay": str(overlay)}
    sources = [f"--data.init_args.{source}.{name}={value}" for name, value in ({"shards": world} | asked).items()]
    main(["predict", "-c", config, "--run_dir", str(out.parent / "predict"), "--return_predictions", "false", *sources,
          "--trainer.callbacks+=GenerationWriter", "--trainer.callbacks.path", str(out), *words])  # fmt: skip
    return str(out)


def answers(config, world, out, *words):
    sampling = {"num_candidates": 2, "temperature": 1.0, "top_p": 0.95}
    return predict(
        config, world, out, *(f"--model.init_args.{name}={value}" for name, value in sampling.items()), *words
    )


def same(staged, within):
    def plain(rows):
        kept = [{name: value for name, value in row.items() if name not in OF_THE_FIT} for row in rows]
        return sorted(kept, key=lambda row: row["id"])

    return plain(staged) == plain(within)


def test_two_iterations_in_stages_have_the_pairs_of_one_fit(config, world, tmp_path):
    fit(config, tmp_path / "fit", "--trainer.callbacks.judge", "lit_vpo.preferences.judges.RandomJudge")
    ckpt = ["--ckpt_path", str(tmp_path / "fit" / "checkpoints" / "step=1.ckpt")]
    wordings = ["--prompts", str(tmp_path / "prompts.yaml")]
    for t, policy, previous in ((1, [], []), (2, ckpt, ["--previous", str(tmp_path / "contexts-1.jsonl")])):
        asked = tmp_path / f"context_prompts-{t}.jsonl"
        drawn = answers(config, world, tmp_path / f"answers-{t}.jsonl", *policy)
        main(["pairs", "contexts", drawn, "--out", str(asked), *wordings, *previous])
        contexts = predict(config, world, tmp_path / f"contexts-{t}.jsonl", *policy, overlay=asked)
        by = ["--contexts", contexts, *wordings, "--iteration", str(t), "--judge", "random"]
        main(["pairs", "judged", drawn, *by, "--out", str(tmp_path / f"pairs-{t}.jsonl")])
        rounds = tmp_path / "fit" / "rounds" / str(t - 1)
        assert same(read(tmp_path / f"pairs-{t}.verdicts.jsonl"), read(rounds / "verdicts.0-1.jsonl"))
        assert same(read(tmp_path / f"pairs-{t}.jsonl"), read(rounds / "pairs.jsonl"))


def test_the_policys_own_verdicts_are_those_of_the_fit(config, world, tmp_path):
    few = "fewer than min_pairs"
    with pytest.raises(ValueError, match=few):
        fit(config, tmp_path / "fit", "--trainer.callbacks.min_pairs", "3")
    drawn, out = answers(config, world, tmp_path / "answers.jsonl"), tmp_path / "questions.jsonl"
    wordings = ["--prompts", str(tmp_path / "prompts.yaml")]
    main(["pairs", "contexts", drawn, "--out", str(tmp_path / "c.jsonl"), *wordings])
    contexts = ["--contexts", predict(config, world, tmp_path / "contexts.jsonl", overlay=tmp_path / "c.jsonl")]
    main(["pairs", "verdicts", drawn, *contexts, *wordings, "--out", str(out)])
    replies = predict(config, world, tmp_path / "replies.jsonl", source="predict_questions", overlay=out)
    judged = ["pairs", "judged", drawn, *contexts, "--replies", replies, "--out", str(tmp_path / "pairs.jsonl")]
    with pytest.raises(ValueError, match=few):
        main([*judged, *wordings, "--min-pairs", "3"])
    staged, within = (
        read(tmp_path / "pairs.verdicts.jsonl"),
        read(tmp_path / "fit" / "rounds" / "0" / "verdicts.0-1.jsonl"),
    )
    assert same(staged, within) and all(row["scores"] for row in staged)
    assert [row["judge"] for row in staged] == [row["judge"] for row in within]
    with pytest.raises(ValueError, match="answers another question"):  # of other wordings than it was asked in
        main(judged)


def test_what_cannot_be_judged_is_refused(tmp_path):
    row = {"key": "v", "prompt_id": "p", "prompt": "?", "finished": True, "response": "same"}
    path, out = tmp_path / "answers.jsonl", ["--out", str(tmp_path / "out.jsonl")]
    path.write_text("".join(json.dumps(row | {"id": f"p/{n}", "candidate": n}) + "\n" for n in range(2)))
    with pytest.raises(ValueError, match="--context own needs --contexts FILE"):
        main(["pairs", "verdicts", str(path), *out])
    with pytest.raises(ValueError, match=r"no two answers to compare: \{'equal': 1\}"):
        main(["pairs", "verdicts", str(path), "--context", "none", *out])
    with pytest.raises(ValueError, match="give --replies of the policy, or a --judge"):
        main(["pairs", "judged", str(path), "--context", "none", *out])
    with pytest.raises(ValueError, match="unknown judge 'best'; known: longer"):
        main(["pairs", "judged", str(path), "--context", "none", "--judge", "best", *out])
    (tmp_path / "prompts.yaml").write_text("question: Which?")
    with pytest.raises(ValueError, match=r"prompts\.yaml must name some of description, first_context"):
        main(["pairs", "contexts", str(path), "--prompts", str(tmp_path / "prompts.yaml"), *out])
