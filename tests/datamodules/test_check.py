import json
from pathlib import Path

import pytest
from clip_factory import write_shards

from lit_vpo.datamodules.check import Problem, check, index, pack
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.mix import write_part
from lit_vpo.datamodules.overlay import Overlay, read_overlay, write_overlay
from lit_vpo.datamodules.quarantine import read_quarantine
from lit_vpo.datamodules.reader import RecordReader

SHARED = Path(__file__).parents[2].parent / "shared"


def sft(video, answer="a cat"):
    turns = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns} | ({"videos": [video]} if video else {})


@pytest.fixture
def folder(tmp_path, clips):
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    for name, clip in (
        ("1.mp4", clips[0]),
        ("sub/2.mp4", clips[1]),
        ("unused.mp4", clips[2]),
        ("half.mp4", clips[3][:900]),
    ):
        (videos / name).write_bytes(clip)
    return videos


def annotate(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_videos_alone_are_packed_without_records(tmp_path, folder):
    packed = pack(folder, None, tmp_path / "out")
    assert packed.overlay is None and (packed.num_videos, packed.num_records, packed.num_quarantined) == (3, 0, 1)
    assert [sample.key for sample in Manifest.load(tmp_path / "out").samples] == ["1", "sub_2", "unused"]
    assert not (tmp_path / "out" / "records.jsonl").exists()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "half.mp4").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"no video of .*bad can be used: the video does not decode"):
        pack(tmp_path / "bad", None, tmp_path / "none")


def test_every_video_is_a_sample_and_every_annotation_a_row(tmp_path, folder, clips):
    rows = [
        sft("1.mp4"),
        sft("2.mp4", "a dog"),
        sft("sub/2.mp4", "a bird"),
        sft("gone.mp4"),
        sft("half.mp4"),
        sft(None),
    ]
    packed = pack(folder, annotate(tmp_path / "a.json", rows), tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert [sample.key for sample in manifest.samples] == ["1", "sub_2", "unused"]
    reader = RecordReader(manifest, read_overlay(packed.overlay))
    assert [(row["key"], row["id"], row["ground_truth"]) for row in reader.rows] == [
        ("1", "1", "a cat"),
        ("sub_2", "sub_2/0", "a dog"),
        ("sub_2", "sub_2/1", "a bird"),
    ]
    assert reader.record(1)["media"] == {"video": "sub/2.mp4"} and reader.video(1) == clips[1]
    reasons = {line["id"]: line["reason"] for line in read_quarantine(tmp_path / "out")}
    assert set(reasons) == {"half", "a.json:4", "a.json:5", "a.json:6"}
    assert reasons["a.json:5"] == "its video half.mp4 is in quarantine"
    assert "no video 'gone.mp4'" in reasons["a.json:4"] and "names no video" in reasons["a.json:6"]
    assert (packed.num_videos, packed.num_records, packed.num_quarantined) == (3, 3, 4)


def test_names_are_renamed_only_when_asked(tmp_path, folder):
    annotations = annotate(tmp_path / "a.json", [sft("demo_data/9/2.mp4"), sft("1.mp4")])
    packed = pack(folder, annotations, tmp_path / "a", rename=("demo_data/9/", "sub/"))
    assert [row["key"] for row in read_overlay(packed.overlay).rows] == ["sub_2", "1"]
    annotations = annotate(tmp_path / "b.json", [sft("demo_1.mp4")])
    with pytest.raises(ValueError, match=r"leads to a usable video: no video 'demo_1.mp4'"):
        pack(folder, annotations, tmp_path / "b")


def test_an_ambiguous_base_name_is_not_guessed(tmp_path, folder, clips):
    (folder / "other").mkdir()
    (folder / "other" / "2.mp4").write_bytes(clips[3])
    annotations = annotate(tmp_path / "a.json", [sft("2.mp4"), sft("other/2.mp4")])
    packed = pack(folder, annotations, tmp_path / "out")
    assert [row["key"] for row in read_overlay(packed.overlay).rows] == ["other_2"]
    assert "may be any of other/2.mp4, sub/2.mp4" in read_quarantine(tmp_path / "out")[-1]["reason"]


def test_bad_folders_are_refused(tmp_path, folder, clips):
    annotations = annotate(tmp_path / "a.json", [sft("1.mp4")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no video"):
        pack(tmp_path / "empty", annotations, tmp_path / "out")
    with pytest.raises(ValueError, match="not a folder"):
        pack(tmp_path / "absent", annotations, tmp_path / "out")
    (folder / "sub_2.mp4").write_bytes(clips[0])
    with pytest.raises(ValueError, match="both have the key 'sub_2'"):
        pack(folder, annotations, tmp_path / "out")


def test_check_prints_a_sample_and_finds_nothing_in_sound_data(shards, tmp_path, capsys):
    assert check(shards, num_frames=4) == []
    printed = capsys.readouterr().out
    assert "frames (4, 3, 32, 32) uint8" in printed and "ground_truth: a cat 0" in printed
    assert "6 videos, 6 records, 0 problems" in printed


def test_check_lists_every_problem(tmp_path, clips, capsys):
    folder = write_shards(tmp_path / "shards", clips[:4])
    with (folder / "shard-000000.tar").open("r+b") as file:
        file.seek(Manifest.load(folder).by_key["s3"].members["mp4"][0] + 99)
        file.write(b"\0!\0!")
    rows = [
        {"key": "s0", "chosen": "a", "rejected": "b"},
        {"key": "s1", "chosen": "a", "rejected": "a"},
        {"key": "s2", "chosen": "a", "rejected": "b", "media": {"start_s": 50}},
    ]
    write_overlay(tmp_path / "pairs.jsonl", rows)
    found = {(problem.key, problem.reason.split(",")[0]) for problem in check(folder, tmp_path / "pairs.jsonl")}
    assert found == {
        ("s1", "chosen = rejected"),
        ("s2", "the video has no frame between 50 s and inf s (it ends at 1.875 s)"),
        ("s3", "member .mp4 changed since it was indexed (crc32)"),
    }
    assert "3 problems" in capsys.readouterr().out


def test_check_reports_what_stops_a_run_before_it_begins(tmp_path, shards):
    assert "data index" in check(tmp_path)[0].reason
    write_overlay(tmp_path / "pairs.jsonl", [{"key": "gone"}])
    assert check(shards, tmp_path / "pairs.jsonl") == [
        Problem("", "", f"the overlay names keys that {shards} does not hold: gone")
    ]


def test_index_makes_loose_videos_usable(folder, capsys):
    assert [sample.key for sample in index(folder).samples] == ["1", "sub_2", "unused"]
    assert "3 videos indexed, 1 in quarantine" in capsys.readouterr().out
    assert [problem.key for problem in check(folder, num_frames=2)] == ["half"]


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "videos").is_dir(), reason="no real clips beside the checkout")
def test_real_clips_with_the_questions_of_llamafactory(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (SHARED / "videos").glob("llamafactory_*"):
        (videos / path.name).symlink_to(path)
    files = [SHARED / "annotations" / "llamafactory" / f"mllm_video{kind}_demo.json" for kind in ("", "_audio")]
    packed = pack(videos, files, tmp_path / "out", rename=("mllm_demo_data/", "llamafactory_"))
    assert (packed.num_videos, packed.num_quarantined) == (4, 0)
    assert packed.num_records == 6  # three of them ask about one clip and its sound
    heard = [row for row in read_overlay(packed.overlay).rows if "audio" in row["media"]]
    assert {row["media"]["audio"] for row in heard} == {"llamafactory_4.mp3"}
    assert check(tmp_path / "out", packed.overlay, size=64) == []
    assert Overlay.load(packed.overlay).rows[0]["prompt"] == "Why is this video funny?"


def test_every_answer_of_a_conversation_is_packed_with_an_id_of_its_own(tmp_path, folder):
    turns = [("user", "<video>Who?"), ("assistant", "A cat."), ("user", "Where?"), ("assistant", "Here.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = [
        {"messages": messages, "videos": ["gone.mp4"]},
        {"messages": messages, "videos": ["1.mp4"]},
        sft("gone.mp4"),
    ]
    packed = pack(folder, annotate(tmp_path / "a.json", rows), tmp_path / "out")
    reader = RecordReader(Manifest.load(tmp_path / "out"), read_overlay(packed.overlay))
    assert [(row["id"], row["prompt"]) for row in reader.rows] == [("1/0", "Who?"), ("1/1", "Where?")]
    named = {line["id"] for line in read_quarantine(tmp_path / "out")}
    assert named == {"half", "a.json:1", "a.json:3"}  # rows of the file, not records


def test_a_pack_that_failed_leaves_nothing_in_the_next_ones_quarantine(tmp_path, folder):
    with pytest.raises(ValueError, match="leads to a usable video"):
        pack(folder, annotate(tmp_path / "a.json", [sft("gone.mp4")]), tmp_path / "out")
    pack(folder, annotate(tmp_path / "a.json", [sft("1.mp4")]), tmp_path / "out")
    assert [line["id"] for line in read_quarantine(tmp_path / "out")] == ["half"]


def test_a_repaired_folder_is_clean_after_a_new_index(folder, clips):
    index(folder)
    assert [problem.key for problem in check(folder, num_frames=2)] == ["half"]
    (folder / "half.mp4").write_bytes(clips[3])
    index(folder)
    assert check(folder, num_frames=2) == []


def test_an_index_keeps_what_packing_left_out(tmp_path, folder):
    pack(folder, annotate(tmp_path / "a.json", [sft("1.mp4"), sft("gone.mp4")]), tmp_path / "out")
    before = read_quarantine(tmp_path / "out")
    index(tmp_path / "out")
    assert read_quarantine(tmp_path / "out") == before and len(before) == 2


def test_text_alone_does_not_stand_for_a_look_at_the_video(tmp_path, clips):
    folder = write_shards(tmp_path / "shards", clips[:1])
    with (folder / "shard-000000.tar").open("r+b") as file:
        file.seek(Manifest.load(folder).by_key["s0"].members["mp4"][0] + 99)
        file.write(b"\0!\0!")
    rows = [{"key": "s0", "id": "text", "media": {"video": None}}, {"key": "s0", "id": "seen"}]
    write_overlay(tmp_path / "rows.jsonl", rows)
    assert [problem.key for problem in check(folder, tmp_path / "rows.jsonl", num_frames=2)] == ["s0"]


def test_check_looks_at_the_views_of_negatives(tmp_path, shards):
    negative = {"text": "x", "media": {"start_s": 99.0}}
    pair = {"prompt": "?", "chosen": "x", "rejected": "y"}
    rows = [{"key": "s0", **pair, "negatives": [negative]}, {"key": "s1", **pair, "negatives": [{"text": "x"}]}]
    rows.append({"key": "s2", **pair, "negatives": [{"text": "x", "media": {"frame_order": [1, 0, 2]}}]})
    write_overlay(tmp_path / "pairs.jsonl", rows)
    problems = {problem.key: problem.reason for problem in check(shards, tmp_path / "pairs.jsonl")}
    assert set(problems) == {"s0", "s1"}
    assert "no frame between 99.0 s" in problems["s0"] and problems["s1"] == "chosen = negatives[0]"


@pytest.mark.parametrize("role", ["chosen", "rejected"])
def test_check_looks_at_the_views_of_both_responses(tmp_path, shards, role):
    pair = {"prompt": "?", "chosen": "x", "rejected": "y"}
    rows = [{"key": f"s{n}", **pair, "views": {role: {"start_s": start_s}}} for n, start_s in enumerate((0.5, 99.0))]
    write_overlay(tmp_path / "pairs.jsonl", rows)
    (problem,) = check(shards, tmp_path / "pairs.jsonl")
    assert problem.key == "s1" and "no frame between 99.0 s" in problem.reason


def test_check_takes_overlays_as_a_source_does(tmp_path, shards):
    pair = {"prompt": "?", "chosen": "x", "rejected": "x"}
    for rank in range(2):
        write_part(tmp_path / "a.jsonl", [{"key": f"s{rank}", **pair}], rank, 2)
    write_overlay(tmp_path / "b.jsonl", [{"key": "s2", **pair}])
    for overlay in (f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl", f"{tmp_path}/?.*jsonl"):
        assert [problem.key for problem in check(shards, overlay)] == ["s0", "s1", "s2"]
    assert [problem.key for problem in check(shards, tmp_path / "a.jsonl")] == ["s0", "s1"]
