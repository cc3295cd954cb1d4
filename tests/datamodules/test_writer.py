import json
import tarfile

import pytest
from clip_factory import write_shards

from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.writer import ShardWriter


def test_equal_samples_make_equal_shards_with_json_before_video(tmp_path, clips):
    one, other = write_shards(tmp_path / "a", clips[:3]), write_shards(tmp_path / "b", clips[:3])
    assert (one / "shard-000000.tar").read_bytes() == (other / "shard-000000.tar").read_bytes()
    assert Manifest.load(one).hash == Manifest.load(other).hash
    with tarfile.open(one / "shard-000000.tar") as tar:
        assert tar.getnames() == [f"s{n}.{extension}" for n in range(3) for extension in ("json", "mp4")]
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "lit_vpo")}
        assert json.load(tar.extractfile("s2.json"))["ground_truth"] == "a cat 2"
        assert tar.extractfile("s1.mp4").read() == clips[1]


def test_shards_are_cut_by_samples_and_by_bytes(tmp_path, clips):
    write_shards(tmp_path / "a", clips, max_samples=4)
    assert [sample.shard for sample in Manifest.load(tmp_path / "a").samples] == ["shard-000000.tar"] * 4 + [
        "shard-000001.tar"
    ] * 2
    write_shards(tmp_path / "b", clips[:3], max_bytes=1, prefix="train")
    assert sorted(path.name for path in (tmp_path / "b").glob("*.tar")) == [f"train-00000{n}.tar" for n in range(3)]


def test_an_avi_follows_its_json_though_its_name_sorts_first(tmp_path, clips):
    with ShardWriter(tmp_path / "a") as writer:
        writer.write("x", {}, clips[0], "avi")
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:
        assert tar.getnames() == ["x.json", "x.avi"]


def test_a_video_may_be_a_path(tmp_path, clips):
    (tmp_path / "clip.mp4").write_bytes(clips[0])
    with ShardWriter(tmp_path / "a") as writer:
        writer.write("x", {}, tmp_path / "clip.mp4")
    assert writer.manifest is not None and writer.manifest.samples[0].num_frames == 16


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "ä", "a b"])
def test_a_key_outside_the_rule_is_refused(tmp_path, clips, key):
    with ShardWriter(tmp_path / "a") as writer:
        writer.write("good", {}, clips[0])
        with pytest.raises(ValueError, match="must match"):
            writer.write(key, {}, clips[0])
        with pytest.raises(ValueError, match="written before"):
            writer.write("good", {}, clips[0])
        with pytest.raises(ValueError, match="extension"):
            writer.write("other", {}, clips[0], "mp3")


def test_a_crash_leaves_nothing_that_looks_finished(tmp_path, clips):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a") as writer:
        writer.write("x", {}, clips[0])
        raise KeyError
    assert not list((tmp_path / "a").iterdir())
    write_shards(tmp_path / "a", clips[:1])
    with pytest.raises(ValueError, match="already holds shards"):
        ShardWriter(tmp_path / "a")
