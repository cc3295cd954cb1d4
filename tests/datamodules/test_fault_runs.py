"""Every fault of a sample at once, in one folder, through the loader: what a run gets, and what it tells."""

import json
import re

import pytest
import torch
from faults import JSON, flip, spoilt, write

from lit_vpo.datamodules.collate import Collator
from lit_vpo.datamodules.loader import ShardLoader
from lit_vpo.datamodules.manifest import Manifest, index
from lit_vpo.datamodules.quarantine import read_quarantine
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.datamodules.video import decode


class Frames(Collator):
    """Checks records as the collator does; its batches are frames, so that a video under another's name is seen."""

    def __call__(self, examples):
        return {"rows": [(record["id"], record["ground_truth"], clips[0].frames) for record, clips in examples]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clips):
    """A good sample after each bad one, so that no batch of two is left empty; a byte flipped after the index."""
    table, reasons, good = {}, {}, {}
    flipped = ("flipped", lambda clip: {"json": JSON, "mp4": clip}, "member .mp4 changed since it was indexed (crc32)")
    for number, (name, spoil, reason) in enumerate([*spoilt(), flipped]):
        clip, text = clips[number % len(clips)], f"answer {number}"
        key = re.sub(r"\W+", "_", name)
        table[key], reasons[key] = spoil(clip), reason
        good[f"good{number}"] = text, clip
        table[f"good{number}"] = {"json": json.dumps({"prompt": "What?", "ground_truth": text}).encode(), "mp4": clip}
    folder = write(tmp_path_factory.mktemp("faults") / "d", table)
    flip(folder / "x.tar", index(folder).by_key["flipped"].members["mp4"][0] + 900)
    return folder, good, reasons


@pytest.mark.parametrize("workers", [0, 2])
def test_every_good_row_comes_out_once_and_every_bad_one_is_told(folder, workers, llava, tmp_path):
    folder, good, reasons = folder
    options = {"batch_size": 2, "num_frames": 4, "shuffle": False, "world_multiple": 1, "max_bad_fraction": 1.0}
    reader, collator = RecordReader(Manifest.load(folder)), Frames(llava, "instruction")
    loader = ShardLoader(reader, collator, quarantine=tmp_path, num_workers=workers, **options)
    rows = [row for batch in loader for row in batch["rows"]]
    assert [key for key, _, _ in rows] == list(good)
    for key, text, frames in rows:
        assert text == good[key][0] and torch.equal(frames, decode(good[key][1], 4).frames), key
    told = [*read_quarantine(folder), *read_quarantine(tmp_path)]
    assert sorted(line["key"] for line in told) == sorted(reasons)
    assert [line for line in told if not line["reason"].startswith(reasons[line["key"]])] == []
    assert loader.num_quarantined == len(read_quarantine(tmp_path))
