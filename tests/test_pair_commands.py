import json
import pathlib
import re

import pytest

from lit_vpo.cli import main
from lit_vpo.compare import compare
from lit_vpo.datamodules.overlay import read_overlay, write_overlay

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


def by_divisor(tmp_path, *words):
    """Four videos; at r = 4 the last one has no pair, at r = 2 none has one."""
    texts = {None: "one, then two.", 16: "two, then one", 4: "two, and one", 2: "one, then two."}
    rows = [
        {
            "key": key, "id": f"{key}/{r}", "prompt": "?", "finished": True, "r": r, "difficulty": r and 2 / r,
            "response": texts[None] if (key, r) == ("d", 4) else text,
            "perturbation": {"kind": "reverse", "r": r} if r else None,
        }
        for key in "abcd"
        for r, text in texts.items()
    ]  # fmt: skip
    path = tmp_path / "g.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["pairs", "build", str(path), "--out", str(tmp_path / "pairs-{r}.jsonl"), *words])


def test_every_divisor_has_an_overlay_and_all_hold_out_the_same_videos(tmp_path, capsys):
    (tmp_path / "pairs-2.jsonl").write_text("of an earlier run")
    by_divisor(tmp_path, "--validation", "2")
    assert keys(tmp_path / "pairs-16.jsonl") == keys(tmp_path / "pairs-4.jsonl") == ["a", "b"]
    assert keys(tmp_path / "pairs-16.validation.jsonl") == ["c", "d"]
    assert keys(tmp_path / "pairs-4.validation.jsonl") == ["c"]
    printed = capsys.readouterr().out
    assert [printed.index(f"pairs-{r}.jsonl") for r in (16, 4, 2)] == sorted(
        printed.index(f"pairs-{r}.jsonl") for r in (16, 4, 2)
    )
    assert re.findall(r"difficulty +\S +([0-9.]+)", printed) == ["0.12", "0.50", "1.00"]
    assert printed.count("dropped: equal") == 2  # one at r = 4, all at r = 2, which has no overlay
    assert not (tmp_path / "pairs-2.jsonl").exists() and len(keys(tmp_path / "pairs-2.dropped.jsonl")) == 4


def test_an_overlay_of_a_divisor_that_is_gone_is_not_left_unseen(tmp_path):
    by_divisor(tmp_path)
    by_divisor(tmp_path)  # the same divisors again
    for name in ("pairs-64.jsonl", "pairs-64.validation.jsonl"):
        (tmp_path / name).write_text("of an earlier run")
    with pytest.raises(ValueError, match=r"pairs-64\.jsonl: of an earlier run, and no divisor of this one"):
        by_divisor(tmp_path)


def test_nothing_left_at_any_divisor_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no pair left of 12; look at the reasons"):
        by_divisor(tmp_path, "--filter", f"{__name__}.every_pair")
    assert not (tmp_path / "pairs-16.jsonl").exists()


def every_pair(chosen, rejected):
    return True


def test_prompts_on_clips_of_selected_videos(world, tmp_path):
    clips = [[0, 2], [4, 6], [8, 10]]
    row = {"key": "train-0-000003", "id": "x", "meta": {"selection": {"frame_indices": clips}}}
    (tmp_path / "selection.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "prompts.jsonl"
    words = ["--unit", "clips", "--selection", str(tmp_path / "selection.jsonl"), "--kind", "reverse", "--r", "4"]
    main(["pairs", "prompts", str(world), "--out", str(out), *words])
    clean, reverse = (json.loads(line) for line in out.read_text().splitlines())
    assert clean["key"] == "train-0-000003" and clean["media"] == {"frame_indices": [0, 2, 4, 6, 8, 10]}
    assert reverse["media"] == clean["media"] | {"frame_order": [4, 5, 2, 3, 0, 1]}
    with pytest.raises(ValueError, match="unknown unit 'captions' of a video"):
        main(["pairs", "prompts", str(world), "--out", str(out), "--unit", "captions"])
    (tmp_path / "selection.jsonl").write_text(json.dumps(row | {"key": "elsewhere"}) + "\n")
    with pytest.raises(ValueError, match="does not hold: elsewhere"):
        main(["pairs", "clips", str(tmp_path / "selection.jsonl"), "--shards", str(world), "--out", str(out)])


def test_lists_say_what_they_leave_out(tmp_path, capsys):
    rows = [
        {
            "key": key, "id": f"{key}/clip-{number}", "response": "N/A" if key == "b" else f"{key}{number}",
            "finished": key != "c", "prompt": "?", "meta": {"clip": {"video": key, "number": number, "total": 4}},
        }
        for key in "abc"
        for number in range(4)
    ]  # fmt: skip
    path, out = tmp_path / "g.jsonl", tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["pairs", "lists", str(path), "--out", str(out), "--kind", "reverse"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "1 videos dropped: not_available_caption",
        "1 videos dropped: unfinished_caption",
        "1 lists skipped: reverse at r=4 is reverse at r=16 on 4 captions",
        "1 lists skipped: reverse at r=8 is reverse at r=16 on 4 captions",
        f"3 lists of 1 videos: {out}",
    ]
    assert keys(out) == ["a"] * 3 and keys(tmp_path / "lists.dropped.jsonl") == ["b", "c"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    with pytest.raises(ValueError, match="no video with all its clips' captions"):
        main(["pairs", "lists", str(path), "--out", str(out)])


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


def test_clean_against_clean_keeps_all_but_the_rejected_answer(tmp_path, generations, capsys):
    main(["pairs", "build", str(generations), "--out", str(tmp_path / "pairs.jsonl")])
    before = read_overlay(tmp_path / "pairs.jsonl").rows
    rows = [json.loads(line) for line in generations.read_text().splitlines()]
    again = [row | {"response": "another answer"} for row in rows if row["perturbation"] is None]
    again = [row for row in again if row["key"] != before[0]["key"]]
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    names = ["--answers", str(tmp_path / "again.jsonl"), "--out", str(tmp_path / "clean")]
    main(["pairs", "against", str(tmp_path / "pairs.jsonl"), *names])
    after = read_overlay(tmp_path / "clean" / "pairs.jsonl").rows
    assert [row["id"] for row in after] == [row["id"] for row in before if row["key"] != before[0]["key"]]
    assert {row["rejected"] for row in after} == {"another answer"}
    assert {row["chosen"] for row in after} <= {row["chosen"] for row in before}
    assert "no_clean_answer" in capsys.readouterr().out
    with pytest.raises(ValueError, match="each name can stand once"):
        main(["pairs", "against", str(tmp_path / "pairs.jsonl"), str(tmp_path / "clean" / "pairs.jsonl"), *names])


def test_prompts_of_the_clean_videos_alone(world, tmp_path):
    main(["pairs", "prompts", str(world), "--out", str(tmp_path / "all.jsonl"), "--kind", "reverse", "--r", "8"])
    every = read_overlay(tmp_path / "all.jsonl").rows
    main(["pairs", "prompts", str(world), "--out", str(tmp_path / "clean.jsonl"), "--clean-only"])
    assert read_overlay(tmp_path / "clean.jsonl").rows == tuple(row for row in every if row["perturbation"] is None)


def test_questions_are_asked_of_the_selected_videos(world, tmp_path, capsys):
    asked = world / "questions.jsonl"
    words = ["--kind", "reverse", "--questions", str(asked)]
    main(["pairs", "prompts", str(world), "--out", str(tmp_path / "q.jsonl"), *words])
    rows, questions = read_overlay(tmp_path / "q.jsonl").rows, read_overlay(asked).rows
    assert [row["prompt"] for row in rows if row["perturbation"] is None] == [row["prompt"] for row in questions]
    selection = [{"key": questions[0]["key"], "id": "s", "meta": {"selection": {"frame_indices": [[0, 1], [2, 3]]}}}]
    write_overlay(tmp_path / "selection.jsonl", selection)
    words = ["--questions", str(asked), "--selection", str(tmp_path / "selection.jsonl"), "--kind", "reverse"]
    main(["pairs", "prompts", str(world), "--out", str(tmp_path / "few.jsonl"), *words])
    assert {row["key"] for row in read_overlay(tmp_path / "few.jsonl").rows} == {questions[0]["key"]}
    assert "questions left out: their videos are not selected" in capsys.readouterr().out
    first = dict(questions[0])
    for rows, message in (
        ([first, first | {"id": "again"}], f"1 questions stand twice, the first about {first['key']}"),
        ([first | {"prompt": ""}], "1 questions have no id or no prompt"),
    ):
        (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ValueError, match=message):
            main(["pairs", "prompts", str(world), "--out", "x", "--questions", str(tmp_path / "bad.jsonl")])
    with pytest.raises(ValueError, match="--clean-only perturbs nothing"):
        main(["pairs", "prompts", str(world), "--out", "x", "--clean-only", "--kind", "drop"])
    with pytest.raises(ValueError, match="--questions brings its own prompts"):
        main(["pairs", "prompts", str(world), "--out", "x", "--questions", str(asked), "--prompt", "P"])


@pytest.mark.parametrize(
    ("command", "spoil", "message"),
    [
        ("build", lambda text: text + '{"id": "torn', r"g\.jsonl, line 10: not JSON"),
        ("build", lambda text: text + "[1]\n", r"g\.jsonl, line 10: no answer of predict, which has key, id, response"),
        ("lists", lambda text: text.replace('"finished"', '"done"'), r"g\.jsonl, line 1: .* which has finished"),
        ("captions", lambda text: text + text, "18 rows with 9 different ids"),
        ("lists", lambda text: "", "0 rows with 0 different ids"),
    ],
)
def test_files_that_are_no_answers_are_refused_by_line(generations, command, spoil, message):
    generations.write_text(spoil(generations.read_text()))
    with pytest.raises(ValueError, match=message):
        main(["pairs", command, str(generations), "--out", str(generations.with_name("out.jsonl"))])


@pytest.mark.parametrize("words", [["build"], ["lists"], ["captions"], ["best", "--scorer", "a.b"]])
def test_a_missing_file_of_answers_is_named(tmp_path, words):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl does not exist; write it with"):
        main(["pairs", words[0], str(tmp_path / "nowhere.jsonl"), "--out", str(tmp_path / "out.jsonl"), *words[1:]])


def test_a_video_that_is_selected_twice_is_refused(world, tmp_path):
    row = {"key": "train-0-000003", "meta": {"selection": {"frame_indices": [[0, 2]]}}}
    selection, out = tmp_path / "selection.jsonl", str(tmp_path / "out.jsonl")
    selection.write_text("".join(json.dumps(row | {"id": name}) + "\n" for name in "ab"))
    for words in (
        ["clips", str(selection), "--shards", str(world)],
        ["prompts", str(world), "--selection", str(selection)],
    ):
        with pytest.raises(ValueError, match="names videos twice: train-0-000003; keep one row of each"):
            main(["pairs", *words, "--out", out])


@pytest.mark.parametrize("words", [["--r", "1"], ["--r", "0"], ["--num-frames", "0"], ["--unit", "shots"]])
def test_prompts_out_of_range_are_refused(world, tmp_path, words):
    message = {"--r": "r must be >= 2", "--num-frames": "num_frames must be >= 1", "--unit": "unknown unit 'shots'"}
    with pytest.raises(ValueError, match=message[words[0]]):
        main(["pairs", "prompts", str(world), "--out", str(tmp_path / "out.jsonl"), *words])
