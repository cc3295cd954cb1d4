"""`data select` from files to overlay: known truth, resuming, workers, and what cannot be used."""

import json
from itertools import pairwise

import numpy as np
import pytest
from footage import encode, join

from lit_vpo import video_selection
from lit_vpo.cli import main
from lit_vpo.datamodules.manifest import Manifest, index
from lit_vpo.datamodules.motion_world.joined import joined_record, scenes_of, write_joined
from lit_vpo.datamodules.motion_world.render import render
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.datamodules.small_frames import frames_at, small_frames
from lit_vpo.video_selection import select_videos

# the tower of a policy tells scenes less apart than SigLIP; acts of MotionWorld change up to 15, joins 23 and more
WORDS = ["--vision", "motion_world_base", "--merge-above", "0.99", "--threshold", "20"]


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Three joined videos; the second shows its first shot again."""
    out = tmp_path_factory.mktemp("joined") / "train"
    write_joined(out, "train", 3, 0, 6)
    return out


@pytest.fixture(scope="module")
def selected(joined, tmp_path_factory):
    """The overlay of a straight run."""
    out = tmp_path_factory.mktemp("selected") / "selected.jsonl"
    main(["data", "select", str(joined), "--out", str(out), *WORDS])
    return out


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(out):
    return out.read_bytes(), out.with_name(out.stem + ".dropped.jsonl").read_bytes()


def test_shots_and_groups_are_those_of_the_truth(joined, selected):
    reader = RecordReader(Manifest.load(joined), Overlay.load(selected))
    assert len(reader) == 3
    for place in range(3):
        record = reader.record(place)
        truth, found = record["meta"]["shots"], record["meta"]["selection"]
        assert found["shots"] == truth  # the overlay lies over the record without hiding it
        scenes = record["meta"]["scenes"]
        alike = [[i for i, scene in enumerate(scenes) if scene == each] for each in dict.fromkeys(scenes)]
        assert found["groups"] == alike
        assert len(alike) == (5 if place == 1 else 6)
        assert [inside for _, inside in found["merged_groups"]] == [[shot] for shot in range(6)]
        for (first, second), (start, end) in zip(found["frame_indices"], truth, strict=True):
            assert start < first < second < end


def test_one_worker_or_two_write_the_same(joined, selected, tmp_path):
    select = ["data", "select", str(joined), "--out", str(tmp_path / "selected.jsonl"), *WORDS]
    main([*select, "--num-workers", "2"])
    assert files(tmp_path / "selected.jsonl") == files(selected)


def test_a_killed_run_goes_on_without_doing_a_video_twice(joined, selected, tmp_path, monkeypatch):
    out, done = tmp_path / "selected.jsonl", []
    row = video_selection._row

    def killed(scanned, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(scanned.key)
        return row(scanned, *rest)

    monkeypatch.setattr(video_selection, "_row", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["data", "select", str(joined), "--out", str(out), *WORDS])
    assert not out.exists() and len(rows(tmp_path / "selected.jsonl.part")) == 2
    with (tmp_path / "selected.jsonl.part").open("a") as part:
        part.write('{"key": "joined-tr')  # what a kill leaves of a line
    again = []
    monkeypatch.setattr(
        video_selection, "_row", lambda scanned, *rest: again.append(scanned.key) or row(scanned, *rest)
    )
    main(["data", "select", str(joined), "--out", str(out), *WORDS])
    assert files(out) == files(selected) and not (tmp_path / "selected.jsonl.part").exists()
    assert len(again) == 1 and set(done + again) == {row["key"] for row in rows(out)}


def test_a_finished_run_is_not_done_again_and_other_options_are_refused(joined, selected, capsys):
    before = files(selected)
    main(["data", "select", str(joined), "--out", str(selected), *WORDS])
    assert "3 of 3 videos selected, 0 new" in capsys.readouterr().out
    for words, name in (
        ([*WORDS, "--merge-above", "0.98"], "rules.merge_above was 0.99 and is 0.98"),
        ([*WORDS, "--threshold", "25"], "detector.threshold was 20.0 and is 25.0"),
        (["--vision", "tiny_llava_onevision", *WORDS[2:]], "similarity.model"),
    ):
        with pytest.raises(ValueError, match=name):
            main(["data", "select", str(joined), "--out", str(selected), *words])
    assert files(selected) == before


def test_an_overlay_of_other_rows_is_not_overwritten(joined, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"key": "joined-train-0-000000", "chosen": "a"}\n')
    with pytest.raises(ValueError, match="holds other rows"):
        main(["data", "select", str(joined), "--out", str(tmp_path / "pairs.jsonl"), *WORDS])


@pytest.fixture
def bad(tmp_path):
    """Loose files: one that is good, and one for each way of not being so."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shots = [render(scene) for scene in scenes_of("train", 0, 0, 6)]
    encode(folder / "good.mp4", shots)
    encode(folder / "single.mp4", shots[:1])
    encode(folder / "black.mp4", [np.zeros((64, 64, 64, 3), np.uint8)])
    encode(folder / "short.mp4", [shots[0][:2]])
    encode(folder / "long.mp4", [*shots[:4], np.concatenate([shots[4]] * 6)[:130]])
    encode(folder / "repeats.mp4", [shots[0], shots[1]] * 4)
    encode(folder / "damaged.mp4", shots)
    whole = (folder / "good.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    index(folder)
    payload = bytearray((folder / "damaged.mp4").read_bytes())
    payload[len(payload) // 2] ^= 255
    (folder / "damaged.mp4").write_bytes(payload)
    return folder


def test_what_cannot_be_used_is_dropped_with_its_reason(bad, tmp_path, capsys):
    out = tmp_path / "selected.jsonl"
    main(["data", "select", str(bad), "--out", str(out), *WORDS])
    assert [row["key"] for row in rows(out)] == ["good"]
    dropped = {row["key"]: row for row in rows(tmp_path / "selected.dropped.jsonl")}
    assert {key: row["reason"] for key, row in dropped.items()} == {
        "black": "few_shots",
        "damaged": "unreadable",
        "long": "long_shot",
        "repeats": "repetitive",
        "short": "few_shots",
        "single": "few_shots",
    }
    assert "(1 found, 0 of them short, 1 flat)" in dropped["black"]["detail"]
    assert "(1 found, 1 of them short, 0 flat)" in dropped["short"]["detail"]
    assert "changed since it was indexed" in dropped["damaged"]["detail"]
    printed = capsys.readouterr().out
    assert "1 of 7 videos selected, 7 new" in printed and "dropped 3: few_shots" in printed
    assert "left out 1: in the quarantine of" in printed  # the truncated one was found out while it was indexed


def test_a_folder_without_a_usable_video_is_an_error_with_the_first_reason(tmp_path):
    encode(tmp_path / "black.mp4", [np.zeros((64, 64, 64, 3), np.uint8)])
    index(tmp_path)
    with pytest.raises(ValueError, match="none of 1 videos is selected; the first: few_shots, 0 usable shots"):
        select_videos(tmp_path, tmp_path / "selected.jsonl", "tiny_llava_onevision")
    assert not (tmp_path / "selected.jsonl").exists()


def test_a_missing_encoder_and_numbers_out_of_range_are_refused(joined, tmp_path):
    out = tmp_path / "selected.jsonl"
    with pytest.raises(ValueError, match="neither a folder nor a name"):
        select_videos(joined, out, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="--vision names the encoder"):
        main(["data", "select", str(joined), "--out", str(out)])
    with pytest.raises(ValueError, match="num_workers must be >= 0"):
        select_videos(joined, out, "tiny_llava_onevision", num_workers=-1)


def test_joined_videos_hold_the_truth_of_their_clips(joined):
    record = joined_record("train", 0, 1, 6)
    bounds, scenes = record["meta"]["shots"], scenes_of("train", 0, 1, 6)
    assert scenes[4] == scenes[0] and len({scene.key for scene in scenes}) == 5
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert Manifest.load(joined).by_key[record["key"]].num_frames == bounds[-1][1]
    shifts = [start / 8 for start, _ in bounds]
    expected = sorted(
        event.start_s + shift for scene, shift in zip(scenes, shifts, strict=True) for event in scene.events
    )
    assert [event["start_s"] for event in record["events"]] == pytest.approx(expected)


def test_the_command_joins_the_same_videos_and_no_mixes(joined, tmp_path):
    words = ["data", "world", str(tmp_path), "--shots", "6", "--num", "3"]
    main(words)
    (shard,) = tmp_path.glob("*.tar")
    assert shard.read_bytes() == (joined / shard.name).read_bytes()
    with pytest.raises(ValueError, match="--mix asks about single clips"):
        main([*words, "--mix", "captions"])
    with pytest.raises(ValueError, match="at least 2 shots"):
        write_joined(tmp_path / "one", num_shots=1)


def test_small_frames_are_those_that_are_found_by_number(joined):
    manifest = Manifest.load(joined)
    video = RecordReader(manifest).video(0)
    small = list(small_frames(video, 32))
    assert len(small) == manifest.samples[0].num_frames and small[0].shape == (32, 32, 3)
    whole = list(small_frames(video, 256))
    assert whole[0].shape == (64, 64, 3)  # never enlarged
    assert (frames_at(video, [3, 70], 256)[..., ::-1] == np.stack([whole[3], whole[70]])).all()


@pytest.mark.real
def test_real_clips_joined(shared, tmp_path):
    """From raw files to the overlay: a video of five places, one that returns to a place too often, one of a single."""
    folder = tmp_path / "videos"
    join(shared / "videos", folder, ("home", "returns", "single"))
    main(["data", "index", str(folder)])
    out = tmp_path / "selected.jsonl"
    main(["data", "select", str(folder), "--out", str(out), *WORDS])
    (row,) = rows(out)
    found = row["meta"]["selection"]
    assert row["key"] == "home" and found["shots"] == [[24 * place, 24 * (place + 1)] for place in range(5)]
    assert found["groups"] == [[place] for place in range(5)]
    dropped = {row["key"]: row["reason"] for row in rows(tmp_path / "selected.dropped.jsonl")}
    assert dropped == {"returns": "repetitive", "single": "few_shots"}
