"""TEMPO in released form, from a selection to a training step: clips, captions, lists, answers, overlays by r."""

import json
import pathlib

import pytest

from lit_vpo.cli import main
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.preferences.instructions import DEFAULT_PROMPTS

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEYS = [f"train-0-{number:06d}" for number in range(3)]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(word, folder, *words):
    base = ["--model.init_args.model", "motion_world_base", "--model.init_args.max_new_tokens", "40"]
    main([word, "-c", "experiments/smoke/dpo.yaml", "--run_dir", str(folder / word), *base, *map(str, words)])


def predict(folder, world, overlay, *words):
    path = folder / f"answers-{overlay.name}"
    run(
        "predict", folder, "--return_predictions", "false", "--data.init_args.predict.shards", world,
        "--data.init_args.predict.overlay", overlay, "--trainer.callbacks+=GenerationWriter",
        "--trainer.callbacks.path", path, *words,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def released(world, tmp_path_factory):
    """All files of the chain, over three clips of MotionWorld cut into four clips each."""
    folder = tmp_path_factory.mktemp("released")
    clips = [[4 * number, 4 * number + 2] for number in range(4)]
    rows = [{"key": key, "id": f"{key}/s", "meta": {"selection": {"frame_indices": clips}}} for key in KEYS]
    files = {name: folder / f"{name}.jsonl" for name in ("selection", "clips", "lists")}
    write(files["selection"], rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        main(["pairs", "clips", str(files["selection"]), "--shards", str(world), "--out", str(files["clips"])])
        files["captions"] = predict(folder, world, files["clips"])
        # the small base may not end by itself in 40 tokens; what does not is dropped, which has tests of its own
        write(files["captions"], [row | {"finished": True} for row in read(files["captions"])])
        main(["pairs", "lists", str(files["captions"]), "--out", str(files["lists"])])
        sampled = ("--model.init_args.temperature", 0.7, "--model.init_args.repetition_penalty", 1.05)
        files["answers"] = predict(folder, world, files["lists"], *sampled)
        words = ["--filter", "empty", "--filter", "equal", "--validation", "1"]
        main(["pairs", "build", str(files["answers"]), "--out", str(folder / "pairs-{r}.jsonl"), *words])
    return folder, files


def test_every_clip_is_captioned_from_its_frames(released, world):
    _, files = released
    assert Manifest.load(world).by_key[KEYS[0]].num_frames > 14
    rows = read(files["captions"])
    assert [row["id"] for row in rows] == [f"{key}/s/clip-{number}" for key in KEYS for number in range(4)]
    assert [row["media"]["frame_indices"] for row in rows[:3]] == [[0, 2], [0, 2, 4, 6], [4, 6, 8, 10]]


def test_lists_are_answered_without_the_video_and_pairs_show_it(released):
    folder, files = released
    answers = read(files["answers"])
    assert len(answers) == 3 * 7 and all(row["media"]["video"] is None for row in answers)
    sampling = {
        "max_new_tokens": 40, "temperature": 0.7, "top_p": 1.0, "repetition_penalty": 1.05, "num_candidates": 1,
        "seed": 0,
    }  # fmt: skip
    by_id = {row["id"]: row for row in answers}
    pairs = [pair for r in (16, 2) for pair in read(folder / f"pairs-{r}.jsonl")]
    assert {pair["r"] for pair in pairs} == {16, 2} and pairs[0]["difficulty"] == 0 and pairs[-1]["difficulty"] == 1
    for pair in pairs:
        clean = by_id[f"{pair['key']}/s/clean"]
        assert pair["chosen"] == clean["response"].strip() and pair["rejected"] == by_id[pair["id"]]["response"].strip()
        assert "media" not in pair and pair["prompt"] in DEFAULT_PROMPTS
        assert pair["perturbation"] == by_id[pair["id"]]["perturbation"]
        assert pair["meta"]["sampling"] == sampling and pair["meta"]["model"] == clean["model"]


def test_the_same_videos_are_held_out_for_every_divisor(released):
    folder, _ = released
    for r in (16, 2):
        assert {row["key"] for row in read(folder / f"pairs-{r}.jsonl")} <= set(KEYS[:2])
        assert {row["key"] for row in read(folder / f"pairs-{r}.validation.jsonl")} <= {KEYS[2]}


def test_a_step_trains_on_an_overlay_and_sees_the_video(released, world, monkeypatch):
    folder, _ = released
    monkeypatch.chdir(ROOT)
    seen = []
    from lit_vpo.modules import DPOModule

    step = DPOModule.training_step
    monkeypatch.setattr(DPOModule, "training_step", lambda self, batch, n: seen.append(batch) or step(self, batch, n))
    run(
        "fit", folder, "--trainer.max_steps", 1, "--data.init_args.train.shards", world,
        "--data.init_args.train.overlay", folder / "pairs-2.jsonl", "--trainer.limit_val_batches", 0,
    )  # fmt: skip
    (batch,) = seen
    assert (batch["video_index"] >= 0).all() and {record["key"] for record in batch["records"]} <= set(KEYS[:2])
