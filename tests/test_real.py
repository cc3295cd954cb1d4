"""Real footage: the recipe for one's own videos on clips that no one here made, with both families."""

import json
import pathlib

import pytest

from lit_vpo.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny_llava_onevision", "tiny_qwen2_5_vl"])
def test_from_a_folder_of_videos_to_dpo(model, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = {
        "run_dir": tmp_path / "run",
        "videos": shared / "videos",
        "annotations": shared / "annotations" / "llamafactory" / "mllm_video_demo.json",
        "rename": "mllm_demo_data/=llamafactory_",
        "model": model,
    }
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    main(["run", "experiments/own_videos.yaml", *words])
    run = tmp_path / "run"
    records = [json.loads(line) for line in (run / "shards" / "records.jsonl").read_text().splitlines()]
    assert [row["ground_truth"] for row in records] == [
        "Because a baby is reading, and he is so cute!", "She is cooking.", "A baby is playing in the living room.",
    ]  # fmt: skip
    pairs = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    dropped = [json.loads(line) for line in (run / "pairs.dropped.jsonl").read_text().splitlines()]
    assert pairs and len(pairs) + len(dropped) == 2 * 13  # two perturbations of each of the thirteen clips
    assert (run / "dpo" / "checkpoints" / "last.ckpt").exists()
    page = (run / "pairs.html").read_text()
    assert "data:image/png;base64," in page and "http://" not in page and "https://" not in page
