"""Views of a video: frames that a record names itself, and another video's frames in some places."""

import io

import av
import pytest
import torch
from clip_factory import clip_bytes, encode_clip, write_shards
from torch.nn.functional import interpolate

from lit_vpo.datamodules import clips as clips_module
from lit_vpo.datamodules import frames as frames_module
from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.collate import Collator
from lit_vpo.datamodules.fields import check_fields
from lit_vpo.datamodules.frame_cache import FrameCache
from lit_vpo.datamodules.lengths import row_lengths
from lit_vpo.datamodules.manifest import Manifest, index
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.datamodules.sampling import Fps, PixelBudget


def naive(source):
    """All frames of a video (N, 3, H, W), one after the other."""
    with av.open(io.BytesIO(source)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures])


def see(reader, media, row=0):
    return reader.clip(row, {"media": media})


@pytest.fixture
def reader(shards, tmp_path):
    return ClipReader(RecordReader(Manifest.load(shards)), 4, frame_cache=FrameCache(tmp_path / "cache"))


@pytest.mark.parametrize("frames", [[3, 9], [0], [12, 13, 2, 2], list(range(16))])
def test_named_frames_are_those_of_a_plain_decode(clips, shards, frames, reader):
    oracle = naive(clips[0])
    for made in (ClipReader(reader.reader, 4), reader, reader):  # decoded, decoded and kept, kept
        clip = see(made, {"frame_indices": frames})
        assert torch.equal(clip.frames, oracle[frames])
        assert clip.timestamps_s == [frame / 8 for frame in frames]


def test_the_rate_is_that_of_the_named_frames_in_whatever_order(reader):
    assert see(reader, {"frame_indices": [3, 9]}).fps == see(reader, {"frame_indices": [9, 3]}).fps == 8 / 6
    assert see(reader, {"frame_indices": [4, 4]}).fps == 8


def test_named_frames_have_an_order_too(clips, reader):
    clip = see(reader, {"frame_indices": [1, 5, 9, 13], "frame_order": [2, 3, 0, 1]})
    assert torch.equal(clip.frames, naive(clips[0])[[9, 13, 1, 5]])


def test_torchcodec_shows_the_named_frames_too(clips, reader):
    try:
        frames_module.check_backend("torchcodec")
    except ValueError:
        pytest.skip("torchcodec is not installed")
    clip = see(ClipReader(reader.reader, 4, backend="torchcodec"), {"frame_indices": [9, 3]})
    assert torch.equal(clip.frames, naive(clips[0])[[9, 3]])


def test_frames_that_cannot_be_shown_are_bad_samples(reader):
    with pytest.raises(BadSample, match="names frame 16 of a video of 16 frames"):
        see(reader, {"frame_indices": [0, 16]})
    with pytest.raises(BadSample, match="leave out start_s and end_s"):
        see(reader, {"frame_indices": [0, 1], "end_s": 1.0})
    for sound in ({"use_audio": True}, {"audio": "a.wav"}):
        with pytest.raises(BadSample, match="to which no stretch of sound belongs"):
            see(reader, {"frame_indices": [0, 1]} | sound)


def test_a_spliced_clip_is_its_own_but_for_the_places(clips, reader):
    """16 frames sampled as 0, 5, 10 and 15; the second and the last are the other video's."""
    own, other = naive(clips[0])[[0, 5, 10, 15]], naive(clips[2])[[0, 5, 10, 15]]
    view = {"splice": {"key": "s2", "positions": [1, 3]}}
    for made in (ClipReader(reader.reader, 4), reader, reader):
        clip = see(made, view)
        assert torch.equal(clip.frames, torch.stack([own[0], other[1], own[2], other[3]]))
        assert clip.timestamps_s == see(made, {}).timestamps_s and clip.fps == see(made, {}).fps
    assert torch.equal(see(reader, {}).frames, own)  # what is kept stays whole
    moved = see(reader, view | {"frame_order": [3, 2, 1, 0]})
    assert torch.equal(moved.frames, torch.stack([own[3], other[1], own[1], other[3]]))


def test_a_kept_partner_is_not_decoded_again(reader, monkeypatch):
    first = see(reader, {"splice": {"key": "s2", "positions": [0]}})
    monkeypatch.setattr(clips_module, "decode", None)
    assert torch.equal(see(reader, {"splice": {"key": "s2", "positions": [0]}}).frames, first.frames)


def test_another_size_and_length_are_fitted(tmp_path):
    encode_clip(tmp_path / "a.mp4", num_frames=16, side=32, fps=8)
    encode_clip(tmp_path / "b.mp4", num_frames=32, side=64, height=48, fps=8, seed=1)
    reader = ClipReader(RecordReader(index(tmp_path)), Fps(2.0))  # 4 frames of a, 8 of b
    shown = see(reader, {"splice": {"key": "b", "positions": [1, 2]}}).frames
    theirs = naive((tmp_path / "b.mp4").read_bytes())[[8, 16]].float()  # of 8 sampled the third and the fifth
    resized = interpolate(theirs, (32, 32), mode="bilinear", antialias=True).round().clamp(0, 255)
    assert shown.shape == (4, 3, 32, 32) and torch.equal(shown[1:3], resized.to(torch.uint8))
    assert torch.equal(shown[[0, 3]], naive((tmp_path / "a.mp4").read_bytes())[[0, 12]])


def test_a_partner_that_cannot_be_read_is_named(tmp_path, reader):
    with pytest.raises(BadSample, match="splice with s9: the folder has no sample 's9'"):
        see(reader, {"splice": {"key": "s9", "positions": [0]}})
    with pytest.raises(BadSample, match="position 4 of a clip of 4 frames"):
        see(reader, {"splice": {"key": "s1", "positions": [4]}})
    folder = write_shards(tmp_path / "spoilt", [clip_bytes(num_frames=8, side=32, seed=seed) for seed in range(2)])
    manifest = Manifest.load(folder)
    offset, size, _ = manifest.by_key["s1"].members["mp4"]
    (shard,) = folder.glob("*.tar")
    payload = bytearray(shard.read_bytes())
    payload[offset + size // 2] ^= 255
    shard.write_bytes(payload)
    with pytest.raises(BadSample, match=r"splice with s1: member \.mp4 changed"):
        see(ClipReader(RecordReader(manifest), 4), {"splice": {"key": "s1", "positions": [0]}})


VIEWS = (
    {},
    {"frame_indices": [0, 1, 2, 3]},
    {"frame_indices": [0, 1, 2, 4]},
    {"splice": {"key": "s1", "positions": [0]}},
    {"splice": {"key": "s1", "positions": [1]}},
    {"splice": {"key": "s2", "positions": [0]}},
)


def test_every_view_is_a_video_of_its_own_to_the_feature_cache(reader, qwen):
    record = {"id": "x", "prompt": "?"}
    examples = [(record | {"media": view}, see(reader, view)) for view in (*VIEWS, VIEWS[1])]
    batch = Collator(qwen, "prompt")(examples)
    assert len({batch["video_keys"][index] for index in batch["video_index"][:6]}) == 6
    assert batch["video_keys"][batch["video_index"][1]] == batch["video_keys"][batch["video_index"][6]]


def test_kept_frames_are_told_apart_by_their_numbers(reader, tmp_path):
    for view in VIEWS:
        see(reader, view)
    assert len(list((tmp_path / "cache").glob("*/*.npz"))) == 5  # s0 sampled and twice by number; s1 and s2 sampled


def test_lengths_of_views_are_known_without_decoding(shards, qwen, monkeypatch):
    media = (*VIEWS, {"frame_indices": [0, 8]}, {"frame_indices": [0, 99]})
    rows = [{"key": "s0", "id": str(n), "prompt": "?", "media": view} for n, view in enumerate(media)]
    reader, collator = RecordReader(Manifest.load(shards), Overlay(tuple(rows))), Collator(qwen, "prompt")
    made = ClipReader(reader, PixelBudget(min_frames=4, total_pixels=100_000), 56)
    batches = [collator([(reader.record(n), made.clip(n, reader.record(n)))]) for n in range(7)]
    expected = [int((batch["input_ids"] == collator.video_token_id).sum()) for batch in batches]
    monkeypatch.setattr(clips_module, "decode", None)
    lengths, all_read = row_lengths(reader, collator, made)
    assert lengths.visual.tolist() == [*expected, 0] and all_read  # the last one cannot be used
    assert expected[0] == expected[3] > expected[6] > 0


@pytest.mark.parametrize(
    ("media", "field"),
    [
        ({"frame_indices": []}, "media.frame_indices"),
        ({"frame_indices": [1, -1]}, "media.frame_indices"),
        ({"frame_indices": [1.5]}, "media.frame_indices"),
        ({"frame_indices": [0, 1], "start_s": 0.0}, "media.frame_indices"),
        ({"splice": ["b", [0]]}, "media.splice"),
        ({"splice": {"key": "b"}}, "media.splice"),
        ({"splice": {"key": 1, "positions": [0]}}, "media.splice"),
        ({"splice": {"key": "b", "positions": []}}, r"media\.splice\.positions"),
    ],
)
def test_views_are_checked_where_they_come_in(media, field):
    with pytest.raises(ValueError, match=f"here, field '{field}'"):
        check_fields({"media": media}, "here")
    with pytest.raises(ValueError, match="here, field 'views"):
        check_fields({"views": {"rejected": media}}, "here")


def test_a_negative_may_see_them():
    for view in VIEWS:
        check_fields({"negatives": [{"text": "a cat", "media": view}]}, "here")
