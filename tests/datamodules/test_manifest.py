import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace

import pytest
from conftest import clip_bytes, write_shards

from lit_vpo.datamodules.manifest import Manifest, index, index_shards, key_of, list_videos
from lit_vpo.datamodules.quarantine import read_quarantine
from lit_vpo.datamodules.reader import RecordReader, read_member
from lit_vpo.datamodules.stores import LocalStore


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))


def test_members_lie_where_the_manifest_says(shards, clips):
    manifest = Manifest.load(shards)
    assert [sample.key for sample in manifest.samples] == [f"s{n}" for n in range(6)]
    for sample, clip in zip(manifest.samples, clips, strict=True):
        offset, size, _ = sample.members["mp4"]
        assert (shards / sample.shard).read_bytes()[offset : offset + size] == clip
        assert (sample.num_frames, sample.fps, sample.duration_s) == (16, 8.0, 2.0)
        assert (sample.height, sample.width, sample.has_audio) == (32, 32, False)


def test_the_hash_is_of_the_content_wherever_it_lies(shards, tmp_path, clips):
    shutil.copytree(shards, tmp_path / "copy")
    assert Manifest.load(tmp_path / "copy").hash == Manifest.load(shards).hash == index_shards(shards).hash
    changed = [*clips[:5], clip_bytes(num_frames=16, side=32, seed=99)]
    assert Manifest.load(write_shards(tmp_path / "other", changed, max_samples=4)).hash != Manifest.load(shards).hash


def test_the_hash_knows_every_field_and_no_order_of_members(shards):
    manifest = Manifest.load(shards)
    first, *rest = manifest.samples
    turned = replace(first, members=dict(reversed(first.members.items())))
    assert Manifest(shards, (turned, *rest)).hash == manifest.hash
    changed = {"key": "x", "shard": "x", "members": {}, "num_frames": 9, "fps": 9.0, "duration_s": 9.0, "height": 9}
    for name, value in {**changed, "width": 9, "has_audio": True}.items():
        assert Manifest(shards, (replace(first, **{name: value}), *rest)).hash != manifest.hash, name


def test_loose_videos_are_samples_where_they_lie(tmp_path, clips):
    (tmp_path / "day 1").mkdir()
    (tmp_path / "day 1" / "clip.v2.mp4").write_bytes(clips[0])
    (tmp_path / "b.MP4").write_bytes(clips[1])
    (tmp_path / "b.json").write_text(json.dumps({"prompt": "What?", "ground_truth": "a cat"}))
    (tmp_path / "sound.mp3").write_bytes(b"x")
    reader = RecordReader(index(tmp_path))
    assert [sample.shard for sample in reader.manifest.samples] == ["b.MP4", "day 1/clip.v2.mp4"]
    assert [row["key"] for row in reader.rows] == ["b", "day_1_clip_v2"]
    assert reader.record(0)["ground_truth"] == "a cat" and reader.record(1)["media"] == {}
    assert [reader.video(0), reader.video(1)] == [clips[1], clips[0]]
    assert [path.name for path in list_videos(tmp_path)] == ["b.MP4", "clip.v2.mp4"]


def test_videos_that_do_not_open_go_to_the_quarantine(tmp_path, clips):
    half = clips[0][: len(clips[0]) // 2]
    write_tar(tmp_path / "a.tar", [("x.json", b"{}"), ("x.mp4", half), ("y.json", b"{}"), ("y.mp4", clips[1])])
    manifest = index(tmp_path)
    assert [sample.key for sample in manifest.samples] == ["y"]
    assert [(line["shard"], line["key"]) for line in read_quarantine(tmp_path)] == [("a.tar", "x")]
    index(tmp_path)
    assert len(read_quarantine(tmp_path)) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["x.json", "y.json", "x.mp4", "y.mp4"], "sample 'x' are not adjacent"),
        (["x.mp4", "x.mp4"], "stands twice"),
        (["a/x.json", "a/x.mp4"], "must match"),
        (["x.mp4", "y.mp4", "x.mp4"], "are not adjacent, or it stands twice"),
        (["x.1.mp4", "x_1.mp4"], "would both have the key 'x_1'"),
    ],
)
def test_shards_against_the_rules_are_refused(tmp_path, clips, members, message):
    write_tar(tmp_path / "a.tar", [(name, b"{}" if name.endswith("json") else clips[0]) for name in members])
    with pytest.raises(ValueError, match=message):
        index(tmp_path)


def test_two_loose_files_with_one_key_are_refused(tmp_path, clips):
    for name in ("a b.mp4", "a_b.mp4"):
        (tmp_path / name).write_bytes(clips[0])
    assert key_of(tmp_path.relative_to(tmp_path) / "a b.mp4") == "a_b"
    with pytest.raises(ValueError, match="'a_b' stands twice"):
        index(tmp_path)


def test_a_damaged_header_or_a_cut_tar_is_an_error_and_not_an_end(tmp_path, clips):
    whole = write_shards(tmp_path / "a", clips[:3])
    second = Manifest.load(whole).by_key["s1"].members["json"][0] - 512
    payload = (whole / "shard-000000.tar").read_bytes()
    flipped = bytearray(payload)
    flipped[second] ^= 1  # one bit of the header of s1.json
    for name, broken in (("flip", bytes(flipped)), ("cut", payload[: second + 700]), ("text", b"no tar at all" * 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard-000000.tar").write_bytes(broken)
        with pytest.raises(ValueError, match=r"shard-000000.tar is (damaged|not a readable)"):
            index(tmp_path / name)


def test_a_manifest_that_does_not_fit_its_shards_is_refused(tmp_path, clips):
    folder = write_shards(tmp_path / "a", clips[:2])
    with (folder / "shard-000000.tar").open("ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(ValueError, match="another size"):
        Manifest.load(folder)
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    for edited in (lines[:2], ["{", *lines[1:]], []):
        (folder / "manifest.jsonl").write_text("\n".join(edited))
        with pytest.raises(ValueError, match="data index"):
            Manifest.load(folder)


def test_missing_folders_and_manifests_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="python -m lit_vpo data index"):
        Manifest.load(tmp_path)
    with pytest.raises(ValueError, match="no usable shard or video"):
        index(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        index(tmp_path / "absent")


def test_changed_bytes_are_found_by_their_checksum(tmp_path, clips):
    (tmp_path / "x.mp4").write_bytes(clips[0])
    manifest = index(tmp_path)
    for payload, message in ((clips[0][:-1] + b"!", "crc32"), (clips[0][:-9], "is cut"), (None, "cannot open")):
        (tmp_path / "x.mp4").unlink()
        if payload is not None:
            (tmp_path / "x.mp4").write_bytes(payload)
        with pytest.raises(ValueError, match=message):
            read_member(LocalStore(tmp_path), manifest.samples[0], "mp4")


@pytest.mark.parametrize("size", [10**20, 10**15, -(10**20), -512])
def test_an_absurd_size_in_a_pax_header_is_an_error_that_names_the_tar(tmp_path, size):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x.mp4")
        info.pax_headers = {"size": str(size)}
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"a.tar is (damaged|not a readable)"):
        index(tmp_path)


@pytest.mark.parametrize(
    "form", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
)
def test_sparse_members_are_refused_by_name(tmp_path, clips, form):
    with (tmp_path / "x.mp4").open("wb") as file:
        file.write(clips[0])
        file.truncate(1 << 20)
        file.seek(0, 2)
        file.write(clips[1])
    options = [form] if "gnu" in form else ["--format=posix", form]
    command = ["tar", "-C", tmp_path, *options, "--sparse", "--hole-detection=raw", "-cf", tmp_path / "a.tar", "x.mp4"]
    subprocess.run(command, check=True)
    with pytest.raises(ValueError, match=r"a.tar is not a readable tar \(member 'x.mp4' is stored as a sparse file"):
        index_shards(tmp_path)


def test_a_damaged_map_of_a_sparse_member_is_an_error_that_names_the_tar(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x.mp4")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"a.tar is not a readable"):
        index_shards(tmp_path)


def test_a_key_that_stands_in_two_shards_is_refused_with_both_names(tmp_path, clips):
    write_tar(tmp_path / "a.tar", [("x.1.mp4", clips[0])])
    write_tar(tmp_path / "b.tar", [("x_1.mp4", clips[1])])
    with pytest.raises(ValueError, match=r"'x_1' stands twice: in a.tar and in b.tar"):
        index_shards(tmp_path)


def test_bytes_far_behind_the_end_are_found(tmp_path, clips):
    folder = write_shards(tmp_path / "a", clips[:1])
    with (folder / "shard-000000.tar").open("ab") as file:
        file.write(b"\0" * (3 << 20))
    assert len(index(folder).samples) == 1
    with (folder / "shard-000000.tar").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"shard-000000.tar is damaged or cut after 2 members"):
        index(folder)
