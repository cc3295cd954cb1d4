import json
import pathlib

import pytest

from lit_vpo.cli import main
from lit_vpo.compare import compare

EVENT = {"text": "The red square moves left.", "start_s": 0.0, "end_s": 1.0, "modality": "visual"}
TEXTS = {None: "The red square moves left.", "reverse": "The red square moves up.", "drop": "Nothing."}


@pytest.fixture
def generations(tmp_path):
    """Three videos, each with a clean answer and two others."""
    rows = [
        {
            "key": key, "id": f"{key}/{kind}", "prompt": "?", "response": text, "finished": True, "events": [EVENT],
            "perturbation": {"kind": kind, "r": 4} if kind else None,
        }
        for key in "abc"
        for kind, text in TEXTS.items()
    ]  # fmt: skip
    path = tmp_path / "g.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build(generations, *words):
    out = generations.with_name("pairs.jsonl")
    main(["pairs", "build", str(generations), "--out", str(out), *words])
    return out


def keys(path):
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


def test_the_last_videos_are_held_out(generations):
    out = build(generations, "--validation", "2")
    assert keys(out) == ["a", "a"] and keys(out.with_name("pairs.validation.jsonl")) == ["b", "b", "c", "c"]


@pytest.mark.parametrize("num", ["-1", "3", "4"])
def test_a_video_must_be_left_to_train_on(generations, num):
    with pytest.raises(ValueError, match=f"got {num} of the 3 videos that have pairs"):
        build(generations, f"--validation={num}")
    assert not generations.with_name("pairs.jsonl").exists()


def test_the_quality_table_is_whole_on_a_narrow_terminal(generations, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    out = build(generations, "--scorer", "lit_vpo.datamodules.motion_world.score_caption")
    quality = json.loads(out.with_name("pairs.quality.json").read_text())
    assert quality["all"]["num_pairs"] == 6 and quality["reverse"]["error_better"] == 1
    printed = capsys.readouterr().out
    assert "…" not in printed and all(name in printed for name in (*quality, *quality["all"]))


def test_max_pairs_per_video_is_drawn_by_the_seed(generations):
    drawn = {
        tuple(json.loads(line)["id"] for line in build(generations, *words, "--seed", seed).read_text().splitlines())
        for words in [("--max-pairs-per-video", "1")]
        for seed in "0123"
    }
    assert len(drawn) > 1 and all(len(ids) == 3 for ids in drawn)


def test_the_committed_corrupted_overlay_is_what_the_command_writes(tmp_path):
    folder = pathlib.Path(__file__).resolve().parents[1] / "experiments" / "smoke" / "world"
    main(["pairs", "corrupt", str(folder / "pairs.jsonl"), "--out", str(tmp_path / "c.jsonl")])
    assert (tmp_path / "c.jsonl").read_text() == (folder / "corrupted.jsonl").read_text()


def candidates(path, *texts):
    rows = [
        {
            "key": key, "id": f"{key}/candidate-{n}", "prompt_id": key, "candidate": n, "prompt": "?", "response": text,
            "finished": True, "events": [EVENT], "ground_truth": EVENT["text"],
        }
        for key in "abc"
        for n, text in enumerate(texts)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SCORER = ["--scorer", "lit_vpo.datamodules.motion_world.score_caption"]


def test_select_takes_the_best_and_the_worst_and_holds_videos_out(tmp_path, capsys):
    path = candidates(tmp_path / "g.jsonl", "The red square moves up.", EVENT["text"], "Nothing.")
    out = tmp_path / "pairs.jsonl"
    main(["pairs", "select", str(path), "--out", str(out), "--validation", "1", *SCORER])
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["chosen"] == EVENT["text"] != first["rejected"] and (first["key"], second["key"]) == ("a", "b")
    assert keys(out.with_name("pairs.validation.jsonl")) == ["c"] and "kept" in capsys.readouterr().out


def test_select_needs_candidates_and_a_pair(tmp_path, generations):
    with pytest.raises(ValueError, match=r"predict with --model\.init_args\.num_candidates 2"):
        main(["pairs", "select", str(generations), "--out", str(tmp_path / "o.jsonl"), *SCORER])
    same = candidates(tmp_path / "same.jsonl", EVENT["text"], EVENT["text"])
    with pytest.raises(ValueError, match=r"no pair left of 3; look at the reasons: \['margin'\]"):
        main(["pairs", "select", str(same), "--out", str(tmp_path / "o.jsonl"), *SCORER])


def test_the_best_of_several_files_is_what_compare_reads(tmp_path):
    common = {"prompt": "?", "response": "Nothing.", "finished": True, "events": [EVENT]}
    greedy = tmp_path / "greedy.jsonl"
    greedy.write_text("".join(json.dumps({"key": key, "id": key, **common}) + "\n" for key in "abc"))
    sampled = candidates(tmp_path / "g.jsonl", "The red square moves up.", EVENT["text"])
    out = tmp_path / "best.jsonl"
    main(["pairs", "best", str(greedy), str(sampled), "--out", str(out), *SCORER])
    assert [json.loads(line)["response"] for line in out.read_text().splitlines()] == [EVENT["text"]] * 3
    lines = {line.name: line for line in compare(str(greedy), [str(out)], SCORER[1]).lines}
    assert (lines["total event error"].before.estimate, lines["total event error"].after.estimate) == (1, 0)


def test_captions_become_an_overlay_to_learn_from(tmp_path, generations):
    out = tmp_path / "records.jsonl"
    main(["pairs", "captions", str(generations), "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 9 and {row["mode"] for row in rows} == {"sft"}
    assert [row["ground_truth"] for row in rows[:3]] == list(TEXTS.values())
