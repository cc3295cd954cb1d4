"""The data module's ways to videos: stores, rules of sampling, kept frames, annotations by their own paths."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import write_shards
from jsonargparse import ArgumentParser

from lit_vpo.datamodules import InstructionDataModule, Source
from lit_vpo.datamodules.annotations import annotation_overlay
from lit_vpo.datamodules.manifest import Manifest, index
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.datamodules.sampling import Fps, Uniform
from lit_vpo.datamodules.sources import check_sources
from lit_vpo.datamodules.stores import ColdStore


def batches(**options):
    module = InstructionDataModule("tiny_llava_onevision", batch_size=2, size=16, world_multiple=1, **options)
    return list(module.train_dataloader())


def test_rules_stores_and_kept_frames_give_the_same_batches(shards, tmp_path):
    plain = batches(train=Source(str(shards)), num_frames=4)
    store = ColdStore(f"pipe:cat {shards}/{{shard}}", str(tmp_path / "shards"))
    others = {
        "rule": {"train": Source(str(shards)), "sampling": Uniform(4)},
        "store": {"train": Source(str(shards), store=store), "num_frames": 4, "frame_cache": str(tmp_path / "frames")},
    }
    others["kept"] = others["store"]
    for name, options in others.items():
        for batch, expected in zip(batches(**options), plain, strict=True):
            assert [record["id"] for record in batch["records"]] == [record["id"] for record in expected["records"]]
            for field in ("input_ids", "pixel_values_videos"):
                if field in expected:
                    assert torch.equal(batch[field], expected[field]), (name, field)
    assert len(list((tmp_path / "frames").glob("*/*.npz"))) == 6


def test_a_cache_that_cannot_hold_a_single_shard_is_refused_before_anything_is_fetched(shards, tmp_path):
    largest = max(path.stat().st_size for path in shards.glob("*.tar"))
    for size, small in ((largest, False), (largest - 1, True)):
        store = ColdStore(f"pipe:cat {shards}/{{shard}}", str(tmp_path / "cache"), cache_gb=size / 1e9)
        sources = {"train": Source(str(shards), store=store)}
        if small:
            with pytest.raises(ValueError, match=r"shard shard-00000\d.tar of .* GB does not fit .* raise cache_gb"):
                check_sources(sources, "fit")
        else:
            check_sources(sources, "fit")


def test_annotations_find_their_videos_below_the_media_root(tmp_path, clips):
    (tmp_path / "sub").mkdir()
    for name, clip in (("a.mp4", clips[0]), ("sub/b.1.mp4", clips[1])):
        (tmp_path / name).write_bytes(clip)
    manifest = index(tmp_path)
    turns = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "a cat"}]
    rows = [{"messages": turns, "videos": [f"/their/disk/{name}"]} for name in ("sub/b.1.mp4", "a.mp4")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    overlay = annotation_overlay(str(path), manifest, "/their/disk")
    assert [(row["key"], row["ground_truth"]) for row in overlay.rows] == [("sub_b_1", "a cat"), ("a", "a cat")]
    with pytest.raises(ValueError, match=r"rows.json:1, field 'media': '/their/disk/sub/b.1.mp4' is no video"):
        annotation_overlay(str(path), manifest)
    source = Source(str(tmp_path), annotations=str(path))
    (batch,) = batches(train=source, media_root="/their/disk/", num_frames=2)
    assert sorted(record["key"] for record in batch["records"]) == ["a", "sub_b_1"]
    hound = [{"id": "1", "video": "a", "prompt": "What?", "chosen": "x", "rejected": "y"}]
    path.write_text(json.dumps(hound))
    assert isinstance(annotation_overlay(str(path), Manifest.load(tmp_path)), Overlay)
    with pytest.raises(ValueError, match="exclude each other"):
        Source("x", overlay="a.jsonl", annotations="b.json")


def annotate(path, *names):
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a cat"}]
    path.write_text(json.dumps([{"messages": turns, "videos": name} for name in names]))
    return str(path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub/b.1.mp4", "sub_b_1"),
        ("./sub/b.1.mp4", "sub_b_1"),
        ("sub/b.1", "sub_b_1"),
        ("sub/b_1.mp4", None),
        ("sub_b.1.mp4", None),
        ("sub/b.1.avi", None),
        ("sub/b", None),
        ("/sub/b.1.mp4", None),
        (None, "rows.json:1, field 'media': names no video"),
    ],
)
def test_a_row_joins_the_video_at_its_path_and_no_other_of_that_key(tmp_path, clips, name, key):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.1.mp4").write_bytes(clips[0])
    manifest, path = index(tmp_path), annotate(tmp_path / "rows.json", name)
    if key == "sub_b_1":
        assert [row["key"] for row in annotation_overlay(path, manifest).rows] == [key]
    else:
        with pytest.raises(ValueError, match=key or "rows.json:1, field 'media': .* is no video of"):
            annotation_overlay(path, manifest)


def test_in_tars_one_sample_is_one_path(tmp_path, clips):
    manifest = Manifest.load(write_shards(tmp_path / "a", clips[:2]))
    path = annotate(tmp_path / "rows.json", "s0.mp4", "s0", "s1.mp4")
    assert [row["key"] for row in annotation_overlay(path, manifest).rows] == ["s0", "s0", "s1"]
    (sample, *_) = manifest.samples
    manifest = Manifest(manifest.root, (replace(sample, key="a_b"),))
    with pytest.raises(ValueError, match=r"rows.json:2, .*'a/b.mp4' and 'a_b' would both be sample 'a_b'"):
        annotation_overlay(annotate(tmp_path / "rows.json", "a_b.mp4", "a/b.mp4"), manifest)
    with pytest.raises(ValueError, match=r"rows.json:1, .*'a_b.avi' is no video of"):
        annotation_overlay(annotate(tmp_path / "rows.json", "a_b.avi"), manifest)


def test_rules_and_stores_are_named_in_yaml(shards):
    parser = ArgumentParser()
    parser.add_subclass_arguments(InstructionDataModule, "data")
    settings = {
        "model": "tiny_llava_onevision",
        "sampling": {"class_path": "lit_vpo.datamodules.sampling.Fps", "init_args": {"fps": 2.0}},
        "train": {
            "shards": str(shards),
            "store": {"class_path": "lit_vpo.datamodules.stores.RangeStore", "init_args": {"url": "memory://x"}},
        },
    }
    config = {"data": {"class_path": "lit_vpo.datamodules.InstructionDataModule", "init_args": settings}}
    module = parser.instantiate_classes(parser.parse_string(yaml.safe_dump(config))).data
    assert module.sampling == Fps(2.0) and module.sources["train"].store.url == "memory://x"
    with pytest.raises(ValueError, match="sampling must be one of tempo"):
        InstructionDataModule("tiny_llava_onevision", sampling="all")
