"""Real footage of several shots: from a folder of videos to trained stages by TEMPO's recipe, with both families."""

import csv
import json
import pathlib
import re

import pytest
from footage import join

from lit_vpo.cli import main
from lit_vpo.datamodules import write_overlay
from lit_vpo.preferences.instructions import FIRST_CLIP_PROMPT, LIST_PROMPT, NEXT_CLIP_PROMPT
from lit_vpo.recipe_file import read_recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]
EVENTS = ("the red circle grows", "the blue square blinks", "the white star moves left", "the green triangle shrinks")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def footage(shared, tmp_path_factory):
    """Two videos of five places, one that returns to a place too often, one of a single shot, and one that is cut."""
    folder = tmp_path_factory.mktemp("footage")
    join(shared / "videos", folder, ("home", "work", "returns", "single"))
    whole = (folder / "single.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def taught(model, footage, folder):
    """A checkpoint of a tiny model that ends its answers: a random one seldom does, and what is cut makes no pair."""
    main(["data", "pack", "--videos", str(footage), "--out", str(folder / "shards")])
    sentences = [f"{first}, then {second}." for first in EVENTS for second in EVENTS if first != second]
    listed = LIST_PROMPT.replace("{captions}", "\n".join(f"- Caption {n}: {s}" for n, s in enumerate(sentences[:5], 1)))
    asked = (FIRST_CLIP_PROMPT, NEXT_CLIP_PROMPT, listed)
    views = ({"frame_indices": [2, 9]}, {"frame_indices": [2, 9, 14, 20]}, {"video": None})
    rows = [
        {"key": "home", "id": str(n), "prompt": asked[n % 3], "media": views[n % 3], "ground_truth": sentence}
        for n, sentence in enumerate(sentences)
    ]
    write_overlay(folder / "sentences.jsonl", rows)
    main([
        "fit", "-c", "experiments/own_videos/sft.yaml", "--run_dir", str(folder / "sft"),
        "--model.init_args.model", model, "--trainer.max_steps", "80", "--data.init_args.batch_size", "1",
        "--data.init_args.train.shards", str(folder / "shards"), "--data.init_args.frame_cache", str(folder / "frames"),
        "--data.init_args.train.overlay", str(folder / "sentences.jsonl"),
    ])  # fmt: skip
    return folder / "sft" / "checkpoints" / "last.ckpt"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny_llava_onevision", "tiny_qwen2_5_vl"])
def test_from_a_folder_of_footage_to_trained_stages(model, footage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run, start = tmp_path / "run", taught(model, footage, tmp_path)
    values = {"run_dir": run, "videos": footage, "model": model, "init_from": start, "temperature": 1.0}
    for stage in read_recipe("experiments/tempo_videos.yaml", {key: str(value) for key, value in values.items()})[1]:
        main(list(stage.words))
    (cut,) = read(run / "shards" / "quarantine.jsonl")
    assert cut["key"] == "cut" and cut["reason"]
    dropped = {row["key"]: row["reason"] for row in read(run / "selected.dropped.jsonl")}
    assert dropped == {"returns": "repetitive", "single": "few_shots"}
    assert [row["id"] for row in read(run / "clips.jsonl")] == [
        f"{v}/clip-{n}" for v in ("home", "work") for n in range(5)
    ]
    # five captions have two divisors that differ; a video whose captions are not all finished gives no list, and a form
    # that only exchanges equal captions is none
    unfinished = {row["key"]: row["reason"] for row in read(run / "lists.dropped.jsonl")}
    asked = [row for row in read(run / "lists.jsonl") if row["perturbation"]]
    equal = sum(map(int, re.findall(r"(\d+) lists skipped: .* moves equal captions alone", capsys.readouterr().out)))
    assert set(unfinished.values()) <= {"unfinished_caption"} and asked
    assert len(asked) + equal == 6 * (2 - len(unfinished))
    pairs = [pair for path in (run / "pairs").glob("r*[0-9].jsonl") for pair in read(path)]
    lost = [pair for path in (run / "pairs").glob("*.dropped.jsonl") for pair in read(path)]
    assert pairs and len(pairs) + len(lost) == len(asked) and all(pair["reason"] for pair in lost)
    with next((run / "dpo" / "csv").rglob("metrics.csv")).open() as file:
        losses = [row["loss/total"] for row in csv.DictReader(file) if row.get("loss/total")]
    assert len(losses) == 2 * len({pair["r"] for pair in pairs})
    assert (run / "dpo" / "checkpoints" / "last.ckpt").exists() and (run / "pairs.html").exists()
