"""Clips of rows: sound, kept frames, and backends that give the same pictures."""

import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from clip_factory import clip_bytes, encode_clip

from lit_vpo.datamodules import clips as clips_module
from lit_vpo.datamodules import frames
from lit_vpo.datamodules.audio import clip_sound, decode_audio
from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.container import Limits
from lit_vpo.datamodules.frame_cache import FrameCache
from lit_vpo.datamodules.manifest import Manifest, index
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.datamodules.sampling import PixelBudget
from lit_vpo.datamodules.video import decode
from lit_vpo.datamodules.writer import ShardWriter

ROW = {"media": {}}


def sound(
    path_or_file, seconds=2.0, rate=48000, channels=2, begin_s=0.0, codec="pcm_s16le", container="wav", video=False
):
    """A ramp of loudness over a tone: every moment sounds different."""
    time = np.arange(int(seconds * rate)) / rate
    wave = (np.sin(2 * np.pi * 440 * time) * time / seconds * 20000).astype(np.int16)
    with av.open(path_or_file, "w", format=container) as out:
        if video:
            pictures = out.add_stream("mpeg4", rate=8)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        layout = "stereo" if channels == 2 else "mono"
        stream = out.add_stream(codec, rate=rate, layout=layout)
        for number in range(16 if video else 0):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 9, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + 4, Fraction(1, 8)  # the first picture is shown at 0.5 s
            out.mux(pictures.encode(frame))
        if video:
            out.mux(pictures.encode())
        packed = np.repeat(wave[None, :, None], channels, axis=2).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(begin_s * rate)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())


def test_sound_becomes_16_khz_mono():
    file = io.BytesIO()
    sound(file, rate=16000, channels=1)
    wave = decode_audio(file.getvalue())
    time = np.arange(32000) / 16000
    expected = (np.sin(2 * np.pi * 440 * time) * time / 2 * 20000).astype(np.int16) / 32768
    assert wave.dtype == torch.float32 and np.allclose(wave.numpy(), expected, atol=1e-6)
    window = decode_audio(file.getvalue(), 0.5, 1.25)
    assert torch.equal(window, wave[8000:20000])
    stereo = io.BytesIO()
    sound(stereo)
    assert decode_audio(stereo.getvalue()).shape == (32000,)


def test_sound_starts_with_the_first_picture_and_ends_with_the_last(tmp_path):
    path = tmp_path / "x.mkv"
    sound(str(path), seconds=4.0, container="matroska", video=True)
    whole, heard = decode_audio(path), clip_sound(path)
    assert len(heard) == 2 * 16000 and torch.equal(heard, whole[8000:40000])
    assert torch.equal(clip_sound(path, 0.5, 1.0), heard[8000:16000])
    late = tmp_path / "late.mkv"
    sound(str(late), seconds=1.0, container="matroska", video=True, begin_s=1.0)
    lead = clip_sound(late)
    assert not lead[:8000].any() and torch.equal(lead[8000:], decode_audio(late)) and len(lead) == 24000


def test_a_record_says_whether_its_clip_is_heard(tmp_path):
    sound(str(tmp_path / "x.mkv"), container="matroska", video=True)
    reader = ClipReader(RecordReader(index(tmp_path)), 4)
    silent, heard = reader.clip(0, ROW), reader.clip(0, {"media": {"use_audio": True, "start_s": 0.5, "end_s": 1.0}})
    assert silent.audio is None and torch.equal(heard.audio, clip_sound(tmp_path / "x.mkv", 0.5, 1.0))
    with pytest.raises(BadSample, match="names a sound of its own, the sample has only mkv"):
        reader.clip(0, {"media": {"audio": "x.wav"}})


def test_sound_kept_apart_is_a_member_of_its_sample(tmp_path, clips):
    sound(str(tmp_path / "x.wav"))
    with ShardWriter(tmp_path / "d") as writer:
        writer.write("x", {"media": {"audio": "x.wav"}}, clips[0], audio=tmp_path / "x.wav")
        with pytest.raises(ValueError, match="is none of wav, flac"):
            writer.write("y", {}, clips[0], audio=tmp_path / "x.txt")
    reader = RecordReader(Manifest.load(tmp_path / "d"))
    assert list(reader.sample(0).members) == ["json", "mp4", "wav"]
    heard = ClipReader(reader, 4).clip(0, reader.record(0)).audio
    assert torch.equal(heard, decode_audio(tmp_path / "x.wav"))


def test_a_video_without_sound_is_a_bad_sample_where_sound_is_asked_for(shards):
    with pytest.raises(BadSample, match="no audio stream"):
        ClipReader(RecordReader(Manifest.load(shards)), 4).clip(0, {"media": {"use_audio": True}})


def test_long_sound_is_bounded():
    file = io.BytesIO()
    sound(file, rate=16000, channels=1)
    with pytest.raises(BadSample, match="the sound would take"):
        decode_audio(file.getvalue(), limits=Limits(decoded_bytes=1000))


def test_kept_frames_are_those_that_were_decoded_in_any_order(shards, tmp_path, monkeypatch):
    reader = RecordReader(Manifest.load(shards))
    kept = ClipReader(reader, 4, 16, FrameCache(tmp_path / "cache"))
    views = [{}, {"end_s": 1.0}, {"frame_order": [3, 1, 1, 0]}]
    plain = [ClipReader(reader, 4, 16).clip(0, {"media": view}) for view in views]
    first = [kept.clip(0, {"media": view}) for view in views]
    assert len(list((tmp_path / "cache").glob("*/*.npz"))) == 2  # an order is no clip of its own

    def never(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(clips_module, "decode", never)
    monkeypatch.setattr(RecordReader, "video", never)
    for made in (first, [kept.clip(0, {"media": view}) for view in views]):
        for clip, expected in zip(made, plain, strict=True):
            assert torch.equal(clip.frames, expected.frames)
            assert (clip.timestamps_s, clip.fps) == (expected.timestamps_s, expected.fps)
    monkeypatch.undo()
    for other in (ClipReader(reader, 5, 16, kept.frame_cache), ClipReader(reader, 4, 8, kept.frame_cache)):
        assert other.clip(0, ROW).frames.shape != first[0].frames.shape
    assert not torch.equal(kept.clip(1, ROW).frames, first[0].frames)


def test_frames_of_another_decoder_or_version_are_not_served(shards, tmp_path, monkeypatch):
    reader, decoded = RecordReader(Manifest.load(shards)), []
    clip = ClipReader(reader, 4, 16).clip(0, ROW)
    monkeypatch.setattr(clips_module, "check_backend", lambda backend: None)
    monkeypatch.setattr(clips_module, "decode", lambda *args: decoded.append(args) or clip)
    libraries = [("pyav", "1", "1"), ("pyav", "2", "1"), ("torchcodec", "1", "1"), ("torchcodec", "1", "2")]
    for backend, *versions in libraries * 2:
        found = dict(zip(("av", "torchcodec"), versions, strict=True))
        monkeypatch.setattr(frames, "version", found.__getitem__)
        ClipReader(reader, 4, 16, FrameCache(tmp_path), backend).clip(0, ROW)
    assert len(decoded) == len(libraries)


def test_a_spoilt_or_foreign_file_is_no_clip(shards, tmp_path):
    kept = ClipReader(RecordReader(Manifest.load(shards)), 4, 16, FrameCache(tmp_path))
    clip = kept.clip(0, ROW)
    (path,) = tmp_path.glob("*/*.npz")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    pickled = io.BytesIO()
    np.savez(pickled, frames=np.array([print], dtype=object), timestamps_s=np.zeros(1), fps=1.0)
    for payload in (b"", whole[:99], bytes(flipped), pickled.getvalue()):
        path.write_bytes(payload)
        assert kept.frame_cache.get(path) is None and not path.exists()
    assert torch.equal(kept.clip(0, ROW).frames, clip.frames) and path.read_bytes() == whole


def test_the_cache_stays_within_its_bound_and_keeps_what_was_used_last(tmp_path):
    clip = decode(clip_bytes(num_frames=4, side=16), 4)
    size = clip.frames.numel()
    cache = FrameCache(tmp_path, max_gb=64 * size / 1e9)
    paths = [cache.path(number=number) for number in range(100)]
    for number, path in enumerate(paths):
        cache.put(path, clip)
        os.utime(path, (number, number))
        cache.get(paths[0])  # used all the time
    kept = [path for path in paths if path.exists()]
    assert sum(path.stat().st_size for path in kept) <= cache.max_bytes * (1 + 2 / 32)
    assert paths[0] in kept and paths[1] not in kept and paths[99] in kept
    with pytest.raises(ValueError, match="max_gb must be > 0"):
        FrameCache(tmp_path, 0)


def test_what_killed_processes_left_counts_and_goes_first(tmp_path, monkeypatch):
    clip = decode(clip_bytes(num_frames=4, side=16), 4)
    cache = FrameCache(tmp_path, max_gb=64 * clip.frames.numel() / 1e9)
    with monkeypatch.context() as killed:
        # a process that is killed neither renames its file nor removes it
        killed.setattr("lit_vpo.datamodules.frame_cache.os.replace", lambda *names: os.utime(names[0], (0, 0)))
        for number in range(80):
            cache.put(cache.path(left=number), clip)
    left = list(tmp_path.glob("??/.*"))
    assert sum(path.stat().st_size for path in left) <= cache.max_bytes * (1 + 2 / 32)
    paths = [cache.path(number=number) for number in range(80)]
    for path in paths:
        cache.put(path, clip)
    assert not any(path.exists() for path in left) and paths[-1].exists()


def test_a_pixel_budget_shrinks_frames_inside_the_decoder(tmp_path):
    encode_clip(tmp_path / "x.mp4", num_frames=16, side=64)
    rule = PixelBudget(total_pixels=4 * 32 * 32, min_frame_pixels=1)
    clip = ClipReader(RecordReader(index(tmp_path)), rule).clip(0, ROW)
    assert clip.frames.shape == (4, 3, 45, 45)  # 2 s at 1 fps is raised to 4 frames of 2 * 4096 / 4 pixels
    assert torch.equal(clip.frames, decode(tmp_path / "x.mp4", 4, size=45).frames)


def test_an_absent_backend_is_refused_with_the_fix(shards, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchcodec.decoders", None)
    reader = RecordReader(Manifest.load(shards))
    with pytest.raises(ValueError, match="install the torchcodec that fits this torch"):
        ClipReader(reader, 4, backend="torchcodec")
    with pytest.raises(ValueError, match="'pyav' or 'torchcodec'"):
        ClipReader(reader, 4, backend="decord")


@pytest.mark.parametrize(
    "options", [{"gop": 250}, {"gop": 7, "b_frames": 0}, {"container": "matroska"}, {"num_frames": 3}]
)
def test_torchcodec_gives_the_same_frames(options, monkeypatch):
    try:
        frames.check_backend("torchcodec")
    except ValueError:
        pytest.skip("torchcodec is not installed")
    source = clip_bytes(**options)
    used = []
    monkeypatch.setattr(frames, "_sequential", lambda request: used.append(request))
    plain, other = decode(source, 16), decode(source, 16, backend="torchcodec")
    assert not used and torch.equal(plain.frames, other.frames) and plain.timestamps_s == other.timestamps_s


def test_a_cache_in_a_users_folder_touches_nothing_else(shards, tmp_path):
    mine = tmp_path / "features" / "mine.npz"
    mine.parent.mkdir()
    np.savez(mine, frames=np.zeros(3))
    reader = RecordReader(Manifest.load(shards))
    clip = ClipReader(reader, 4, 16).clip(0, {"media": {}})
    cache = FrameCache(tmp_path, max_gb=40 * clip.frames.numel() / 1e9)
    for number in range(50):
        cache.put(cache.path(number=number), clip)
    assert mine.exists() and 0 < len(list(tmp_path.rglob("*.npz"))) - 1 < 50


def test_a_full_disk_costs_the_cache_and_not_the_run(shards, tmp_path, monkeypatch, caplog):
    clip = ClipReader(RecordReader(Manifest.load(shards)), 4, 16).clip(0, {"media": {}})
    cache = FrameCache(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lit_vpo.datamodules.frame_cache.np.savez", full)
    cache.put(cache.path(number=0), clip)
    assert "is not kept (No space left on device)" in caplog.text
    assert cache.get(cache.path(number=0)) is None and not list(tmp_path.rglob("*.npz"))
