"""Every fault that shards were seen with (truncation, flipped bits, half samples, wrong files) and where it must end.

A fault is put into one sample of three. Either the folder is refused by name, or that one sample is in quarantine with
the right reason; the others come out with their own bytes, and nothing else comes out.
"""

import re
import tarfile

import pytest
from clip_factory import encode_clip
from faults import JSON, MEMBERS, RECORDS, cut, flip, member, samples, spoilt, write, write_members

from lit_vpo.datamodules.check import check
from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.container import Limits
from lit_vpo.datamodules.manifest import Manifest, index
from lit_vpo.datamodules.quarantine import BadSample, read_quarantine
from lit_vpo.datamodules.reader import RecordReader


def usable(folder):
    """Key -> bytes of what decodes, and key -> reason of what does not, as a run meets them."""
    reader = RecordReader(Manifest.load(folder))
    good, bad = {}, {line["key"]: line["reason"] for line in read_quarantine(folder)}
    clips = ClipReader(reader, 4)
    for row in range(len(reader)):
        key = reader.rows[row]["key"]
        try:
            clips.clip(row, reader.record(row))
            good[key] = reader.video(row)
        except BadSample as error:
            bad[key] = str(error)
    return good, bad


@pytest.mark.parametrize(
    ("spoil", "reason"), [pytest.param(*row, id=name) for name, *row in spoilt() if name in (*MEMBERS, *RECORDS)]
)
def test_a_spoilt_sample_is_quarantined_and_the_others_come_out_whole(spoil, reason, tmp_path, clips):
    folder = write(tmp_path / "d", samples(clips, b=spoil(clips[1])))
    index(folder)
    good, bad = usable(folder)
    assert good == {"a": clips[0], "c": clips[2]}
    assert list(bad) == ["b"] and bad["b"].startswith(reason), bad
    assert [(problem.key, problem.reason) for problem in check(folder, num_frames=2)] == [*bad.items()]


SHARDS = {
    "cut in a video": (lambda d: cut(d, member(d, "b.mp4").offset_data + 50), "unexpected end of data"),
    "cut between members": (lambda d: cut(d, member(d, "c.json").offset), "is damaged or cut after 4 members"),
    "header flip": (lambda d: flip(d / "x.tar", member(d, "b.json").offset), "is damaged or cut after 2 members"),
    "no tar at all": (lambda d: (d / "x.tar").write_bytes(b"<html>" * 999), "is not a readable tar"),
    "empty file": (lambda d: (d / "x.tar").write_bytes(b""), "is not a readable tar"),
}
LAYOUTS = {
    "not adjacent": (["a.json", "b.json", "a.mp4", "b.mp4"], "'a' are not adjacent"),
    "out of the folder": (["../a.json", "../a.mp4"], r"key '\.\./a' must match"),
    "absolute": (["/etc/a.mp4"], "key '/etc/a' must match"),
    "one key by two names": (["a.1.mp4", "a_1.mp4"], "would both have the key 'a_1'"),
    "member twice": (["a.mp4", "a.mp4"], "stands twice"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_shard_is_refused_by_name_before_and_after_it_is_indexed(name, tmp_path, clips):
    damage, message = SHARDS[name]
    folder = write(tmp_path / "d", samples(clips))
    index(folder)
    size = (folder / "x.tar").stat().st_size
    damage(folder)
    (problem,) = check(folder, num_frames=2)
    resized = (folder / "x.tar").stat().st_size != size
    assert re.search(rf"x\.tar .*{'has another size than when it was indexed' if resized else message}", problem.reason)
    with pytest.raises(ValueError, match=rf"x\.tar .*{message}"):
        index(folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_mixes_samples_up_is_refused_by_name(name, tmp_path, clips):
    members, message = LAYOUTS[name]
    payloads = [(member, JSON if member.endswith("json") else clips[0]) for member in members]
    with pytest.raises(ValueError, match=rf"x\.tar.*{message}"):
        index(write_members(tmp_path / "d", payloads))


def test_a_flipped_payload_is_found_by_its_checksum_alone(tmp_path, clips):
    folder = write(tmp_path / "d", samples(clips))
    index(folder)
    flip(folder / "x.tar", member(folder, "b.mp4").offset_data + 900)
    good, bad = usable(folder)
    assert good == {"a": clips[0], "c": clips[2]} and bad == {"b": "member .mp4 changed since it was indexed (crc32)"}
    assert [problem.key for problem in check(folder, num_frames=2)] == ["b"]


def test_a_header_flipped_after_indexing_loses_nothing_and_is_told(tmp_path, clips):
    folder = write(tmp_path / "d", samples(clips))
    index(folder)
    flip(folder / "x.tar", member(folder, "b.json").offset)
    assert usable(folder) == ({"a": clips[0], "b": clips[1], "c": clips[2]}, {})
    (problem,) = check(folder, num_frames=2)
    assert problem.shard == "x.tar" and "damaged or cut after 2 members" in problem.reason


def test_half_samples_of_two_shards_with_one_key_are_not_merged(tmp_path, clips):
    folder = write(tmp_path / "d", samples(clips, k={"json": JSON}))
    write(folder, {"k": {"mp4": clips[3]}, "z": {"mp4": clips[4]}}, "y.tar")
    with pytest.raises(ValueError, match=r"key 'k' stands twice: in x.tar and in y.tar"):
        index(folder)


def test_dotted_names_keep_their_samples_apart(tmp_path, clips):
    names = ("clip.0001", "clip.0002", "v_1.5x")
    table = {name: {"json": JSON, "mp4": clip, "seg.npy": b"x"} for name, clip in zip(names, clips, strict=False)}
    folder = write(tmp_path / "d", table)
    index(folder)
    expected = {"clip_0001": clips[0], "clip_0002": clips[1], "v_1_5x": clips[2]}
    assert usable(folder) == (expected, {})
    assert list(Manifest.load(folder).samples[0].members) == ["json", "mp4", "seg.npy"]


def test_tars_of_video2dataset_are_indexed_as_they_are(tmp_path, clips):
    names = [f"{number:09d}" for number in range(3)]
    told = b'{"url": "https://x", "caption": "a cat", "key": "%s", "status": "success", "error_message": null}'
    table = {
        name: {"mp4": clip, "txt": b"a cat", "json": told % name.encode()}
        for name, clip in zip(names, clips, strict=False)
    }
    folder = write(tmp_path / "d", table, "00000.tar")
    index(folder)
    assert usable(folder) == (dict(zip(names, clips, strict=False)), {})
    record = RecordReader(Manifest.load(folder)).record(1)
    assert record["caption"] == "a cat" and record["id"] == record["key"] == names[1]
    assert check(folder, num_frames=2) == []


def test_a_header_that_claims_a_gigabyte_is_refused_before_it_is_read(tmp_path, clips):
    folder = write(tmp_path / "d", samples(clips))
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    payload = (folder / "x.tar").read_bytes()
    (folder / "x.tar").write_bytes(info.tobuf() + payload)
    with pytest.raises(ValueError, match=r"x.tar is not a readable tar \(a header of 1073741824 bytes"):
        index(folder)


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path, clips):
    folder = write(tmp_path / "d", samples(clips))
    path = index(folder).save()
    path.write_text(path.read_text().replace('"shard": "x.tar"', '"shard": "../x.tar"'))
    with pytest.raises(ValueError, match="damaged"):
        Manifest.load(folder)


def test_check_compares_shards_and_manifest(tmp_path, clips):
    table = samples(clips)
    folder = write(tmp_path / "d", table)
    lines = index(folder).save().read_text()
    write(folder, {"a": table["a"], "d": table["b"], "c": table["c"]})
    (folder / "manifest.jsonl").write_text(lines)
    told = {(problem.key, problem.reason.split(",")[0]) for problem in check(folder, num_frames=2)}
    assert told == {("b", "the manifest has it"), ("d", "the shard has it")}


def test_a_clip_that_takes_too_long_or_too_much_is_a_bad_sample(tmp_path):
    encode_clip(tmp_path / "x.mp4", num_frames=32, side=64)
    reader = RecordReader(index(tmp_path))
    for limits, reason in (
        (Limits(seconds=1e-9), "longer than the time limit of 1e-09 s"),
        (Limits(side=32), "pictures of 64 x 64 pixels: more than 32"),
        (Limits(decoded_bytes=4 * 3 * 64 * 64 - 1), "4 frames would take 49152 bytes decoded"),
    ):
        with pytest.raises(BadSample, match=reason):
            ClipReader(reader, 4, limits=limits).clip(0, {"media": {}})
    assert ClipReader(reader, 4, limits=Limits(decoded_bytes=4 * 3 * 64 * 64)).clip(0, {"media": {}}) is not None
    with pytest.raises(ValueError, match="seconds must be > 0"):
        Limits(seconds=0)
