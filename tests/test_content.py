"""Content hashes: other for any byte that counts, and cheap where the data is big."""

import pathlib

import pytest

from lit_vpo.content import MANIFEST, MEDIA, content_hash, named_inputs
from lit_vpo.datamodules import container, manifest

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORLD = ROOT / "experiments" / "smoke" / "world"


def test_the_names_are_those_of_the_data():
    assert MANIFEST == manifest.FILE_NAME
    assert {f".{name}" for name in (*container.VIDEO_EXTENSIONS, *container.AUDIO_EXTENSIONS)} | {".tar"} == MEDIA


def test_files_count_by_their_bytes_and_folders_by_names_and_bytes(tmp_path):
    folder = tmp_path / "a"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "x.txt").write_text("one")
    first, of_file = content_hash(folder), content_hash(folder / "in" / "x.txt")
    (folder / "in" / "x.txt").write_text("two")
    assert content_hash(folder) != first and content_hash(folder / "in" / "x.txt") != of_file
    (folder / "in" / "x.txt").write_text("one")
    assert (content_hash(folder), content_hash(folder / "in" / "x.txt")) == (first, of_file)
    (folder / "in" / "x.txt").rename(folder / "in" / "y.txt")
    assert content_hash(folder) != first and content_hash(folder / "in" / "y.txt") == of_file
    folder.rename(tmp_path / "b")
    assert content_hash(folder) is None and content_hash(tmp_path / "b" / "in" / "y.txt") == of_file


def test_a_folder_of_shards_is_known_by_its_manifest_and_no_shard_is_read(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.tar").symlink_to(tmp_path / "nothing")  # reading it would fail
    header, *rows = (WORLD / MANIFEST).read_text().splitlines(keepends=True)
    (shards / MANIFEST).write_text(header + "".join(rows))
    assert content_hash(shards) == content_hash(WORLD)
    (shards / MANIFEST).write_text(header.replace('"hash": "', '"hash": "0'))
    assert content_hash(shards) != content_hash(WORLD)


def test_videos_without_a_manifest_count_by_name_and_size(tmp_path):
    (tmp_path / "a.MP4").write_bytes(b"12")
    first = content_hash(tmp_path)
    (tmp_path / "a.MP4").write_bytes(b"34")
    assert content_hash(tmp_path) == first
    (tmp_path / "a.MP4").write_bytes(b"345")
    assert content_hash(tmp_path) != first


@pytest.mark.parametrize(
    ("command", "read"),
    [
        ("fit -c c.yaml --run_dir run --ckpt_path last", ["c.yaml"]),
        ("fit --data.init_args.train.overlay=a.jsonl --model none", ["a.jsonl"]),
        ("fit --x [{path:a.jsonl,weight:1},b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("predict --x ?.jsonl --trainer.callbacks.path b.jsonl", ["a.jsonl", "b.jsonl"]),
        ("predict --x a.jsonl --trainer.callbacks.path b.jsonl --y.reference_cache run", ["a.jsonl"]),
        ("data world run/out --split train", []),
        ("data pack --annotations ranks.jsonl --out a.jsonl", ["ranks.jsonl.0-2", "ranks.jsonl.1-2"]),
        ("compare run/out a.jsonl run/outside --results b.jsonl", ["a.jsonl", "run/outside"]),
        ("score --out c.yaml a.jsonl a.jsonl", ["a.jsonl"]),
    ],
)
def test_inputs_are_what_a_command_names_and_does_not_write(tmp_path, monkeypatch, command, read):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "c.yaml", "ranks.jsonl.0-2", "ranks.jsonl.1-2"):
        (tmp_path / name).write_text(name)
    for name in ("run/out/in", "run/outside", "data", "world"):
        (tmp_path / name).mkdir(parents=True)
    words = command.split()
    assert list(named_inputs(words, pathlib.Path("run/out"))) == read
    assert named_inputs(words, pathlib.Path("run/out")) == {name: content_hash(name) for name in read}
