import dataclasses
import functools
import io
import itertools
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from clip_factory import clip_bytes, encode_clip

from lit_vpo.datamodules import frames as frames_module
from lit_vpo.datamodules import video
from lit_vpo.datamodules.audio import clip_sound
from lit_vpo.datamodules.container import VIDEO_EXTENSIONS
from lit_vpo.datamodules.probe import check_ends, probe
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.sampling import Fps, Sampling, Uniform
from lit_vpo.datamodules.video import decode

# the package's own name `probe` is the function
probe_module = sys.modules[probe.__module__]
REAL = Path(__file__).parents[2].parent / "shared" / "videos"


@dataclasses.dataclass(frozen=True)
class Pick(Sampling):
    """Frames by number."""

    numbers: tuple[int, ...]

    def positions(self, num_frames, fps):
        return list(self.numbers)


@functools.cache
def backends():
    """Those that can be imported."""
    try:
        frames_module.check_backend("torchcodec")
    except ValueError:
        return ["pyav"]
    return ["pyav", "torchcodec"]


def every_frame(source, width, height):
    """Oracle: all frames by plain sequential decoding, resized from their RGB, and their times."""
    scaler = VideoReformatter()
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        stream = container.streams.best("video")
        base = stream.time_base
        frames = [
            (float((frame.pts or 0) * base), frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
        ]
    times = [time - frames[0][0] for time, _ in frames]
    pictures = [av.VideoFrame.from_ndarray(picture, format="rgb24") for _, picture in frames]
    resized = [scaler.reformat(picture, width, height, interpolation="AREA").to_ndarray() for picture in pictures]
    return times, torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("gop", "b_frames"), [(250, 3), (12, 2), (7, 0), (1, 0)])
@pytest.mark.parametrize("num_frames", [1, 5, 16, 70])
def test_frames_equal_those_of_a_sequential_decode(gop, b_frames, num_frames, monkeypatch):
    monkeypatch.setattr(frames_module, "_sequential", None)  # by seeking, not by starting again from the first frame
    source = clip_bytes(gop=gop, b_frames=b_frames)
    times, oracle = every_frame(source, 64, 64)
    wanted = np.linspace(0, 63, num_frames).astype(int)
    clip = decode(source, num_frames)
    assert torch.equal(clip.frames, oracle[wanted])
    assert clip.timestamps_s == pytest.approx([times[index] for index in wanted])
    assert len({bytes(frame.numpy().tobytes()) for frame in oracle}) == 64  # the clip can tell frames apart


def test_a_window_takes_frames_from_start_to_before_end(tmp_path):
    path = tmp_path / "clip.mp4"
    encode_clip(path, num_frames=64, fps=8)
    _, oracle = every_frame(path, 64, 64)
    clip = decode(path, 4, start_s=2.0, end_s=3.0)  # 8 fps: frames 16..23
    assert torch.equal(clip.frames, oracle[[16, 18, 20, 23]])
    assert clip.timestamps_s == [2.0, 2.25, 2.5, 2.875]
    assert clip.fps == pytest.approx(3 / 0.875)


def test_frame_order_permutes_the_sampled_positions():
    source = clip_bytes(num_frames=16)
    plain, shown = decode(source, 4), decode(source, 4, frame_order=[3, 0, 0, 2])
    assert torch.equal(shown.frames, plain.frames[[3, 0, 0, 2]])
    assert shown.timestamps_s == [plain.timestamps_s[position] for position in (3, 0, 0, 2)]
    assert shown.fps == plain.fps


def test_only_frames_that_are_shown_are_decoded(monkeypatch):
    made = []
    add = frames_module._Pictures.add
    monkeypatch.setattr(frames_module._Pictures, "add", lambda *args: made.append(1) or add(*args))
    order = [0, 0, 0, 0, 5, 5, 5, 5, 10, 10, 10, 10, 15, 15, 15, 15]
    shown = decode(clip_bytes(), 16, frame_order=order)
    assert len(made) == 4
    monkeypatch.undo()
    plain = decode(clip_bytes(), 16)
    assert torch.equal(shown.frames, plain.frames[order]) and shown.fps == plain.fps


def test_of_a_group_only_what_is_shown_or_needed_by_it_is_decoded(monkeypatch):
    made = []
    decoded = frames_module._decoded
    monkeypatch.setattr(frames_module, "_decoded", lambda *args: (made.append(1) or frame for frame in decoded(*args)))
    monkeypatch.setattr(frames_module, "_sequential", None)
    source = clip_bytes(gop=250, b_frames=3)
    _, oracle = every_frame(source, 64, 64)
    assert torch.equal(decode(source, 2).frames, oracle[[0, 63]])
    assert 2 <= len(made) < 48  # of a B-frame in three at least nothing is decoded


def test_our_own_mistakes_are_no_bad_samples(monkeypatch):
    def mistaken(*args):
        raise IndexError("a mistake of ours")

    monkeypatch.setattr(video, "_sample", mistaken)
    with pytest.raises(IndexError, match="a mistake of ours"):
        decode(clip_bytes(num_frames=4), 2)


def test_an_unknown_codec_is_a_bad_sample():
    source = clip_bytes(num_frames=4).replace(b"avc1", b"xxxx")
    for read in (probe, lambda source: decode(source, 2)):
        with pytest.raises(BadSample, match="codec is not known"):
            read(source)


def test_pictures_of_changing_size_are_a_bad_sample():
    parts = [clip_bytes(num_frames=8, side=side, container="h264") for side in (32, 64)]
    with pytest.raises(BadSample, match="changes its picture size"):
        decode(b"".join(parts), 16)


def test_fewer_frames_than_asked_repeat():
    clip = decode(clip_bytes(num_frames=3), 6)
    assert clip.timestamps_s == [0.0, 0.0, 0.0, 0.125, 0.125, 0.25]  # linspace(0, 2, 6) cut to integers
    assert torch.equal(clip.frames[0], clip.frames[2]) and clip.fps == pytest.approx(5 / 0.25)


def test_one_frame_keeps_the_rate_of_the_video():
    assert decode(clip_bytes(num_frames=9, fps=8), 1).fps == 8.0


def test_size_is_the_short_side_and_happens_in_the_decoder():
    source = clip_bytes(side=96, height=64, num_frames=8)
    expected = every_frame(source, 48, 32)[1][[0, 2, 4, 7]]
    for backend in backends():
        clip = decode(source, 4, size=32, backend=backend)
        assert clip.frames.shape == (4, 3, 32, 48)
        assert torch.equal(clip.frames, expected), backend


def test_avi_and_mkv_decode_exactly(tmp_path):
    for name, codec in (("clip.avi", "mpeg4"), ("clip.mkv", "libx264")):
        encode_clip(tmp_path / name, codec=codec)
        assert torch.equal(decode(tmp_path / name, 8).frames, every_frame(tmp_path / name, 64, 64)[1][::9])


@pytest.mark.parametrize("gop", [20, 250])
@pytest.mark.parametrize("container", ["h264", "mpegts", "avi", "flv"])
def test_containers_whose_times_or_seeks_are_of_no_use_decode_exactly_too(tmp_path, container, gop):
    path = tmp_path / "clip"
    encode_clip(path, gop=gop, container=container)
    _, oracle = every_frame(path, 64, 64)
    rate = 25 if container == "h264" else 8  # a raw stream knows no rate: FFmpeg reads 25 into it
    for backend in backends():
        clip = decode(path, 64, backend=backend)
        assert torch.equal(clip.frames, oracle), backend
        assert torch.equal(decode(path, Pick((2, 7, 50)), backend=backend).frames, oracle[[2, 7, 50]]), backend
        assert clip.timestamps_s == pytest.approx([n / rate for n in range(64)])


@pytest.mark.skipif("torchcodec" not in backends(), reason="torchcodec cannot be imported")
def test_a_frame_that_torchcodec_numbers_otherwise_is_not_taken(tmp_path, monkeypatch):
    with av.open(io.BytesIO(clip_bytes())) as source, av.open(str(tmp_path / "clip.avi"), "w") as out:
        stream = out.add_stream("mpeg4", rate=8, options={"bf": "2"})
        stream.width = stream.height = 64
        for frame in (*source.decode(video=0), None):
            out.mux(stream.encode(frame))
    asked = []
    sequential = frames_module._sequential
    monkeypatch.setattr(frames_module, "_sequential", lambda request: asked.append(1) or sequential(request))
    clip = decode(tmp_path / "clip.avi", 16, backend="torchcodec")
    assert asked and torch.equal(clip.frames, decode(tmp_path / "clip.avi", 16).frames)


def test_probe_measures_without_decoding():
    info = probe(clip_bytes(num_frames=40, side=96, height=64, fps=8, audio=True))
    assert (info.num_frames, info.fps, info.duration_s, info.height, info.width) == (40, 8.0, 5.0, 64, 96)
    assert info.has_audio and not probe(clip_bytes(num_frames=2)).has_audio


@pytest.mark.parametrize(("container", "codec"), [("mpeg", "mpeg2video"), ("flv", "libx264")])
def test_files_whose_streams_come_with_their_packets_are_measured_too(container, codec):
    source = clip_bytes(fps=25, container=container, codec=codec)
    info = probe(source)
    assert (info.num_frames, info.height, info.width) == (64, 64, 64)
    assert torch.equal(decode(source, 8).frames, every_frame(source, 64, 64)[1][::9])


def audio_only(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())


def test_what_is_no_video_is_a_bad_sample(tmp_path):
    whole = clip_bytes()
    audio_only(tmp_path / "sound.mp4")
    for source in (b"", b"<html>not found</html>", whole[: len(whole) // 2], whole[100:], tmp_path / "absent.mp4"):
        with pytest.raises(BadSample, match="does not decode"):
            decode(source, 4)
        with pytest.raises(BadSample, match="does not decode"):
            probe(source)
    with pytest.raises(BadSample, match="no video stream"):
        decode(tmp_path / "sound.mp4", 4)


@pytest.mark.parametrize("read", [probe, check_ends, lambda source: decode(source, 2)])
def test_a_playlist_under_a_videos_name_opens_no_other_file(tmp_path, monkeypatch, read):
    encode_clip(tmp_path / "other.mp4", num_frames=8, side=32)
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    monkeypatch.chdir(tmp_path)  # bytes have no folder of their own: names in them would begin here
    with av.open("clip.mp4") as container:
        assert len(list(container.decode(video=0))) == 8  # FFmpeg left alone does open it
    for source in (tmp_path / "clip.mp4", (tmp_path / "clip.mp4").read_bytes()):
        with pytest.raises(BadSample, match="does not decode"):
            read(source)


def test_a_cut_mkv_is_told_by_its_header(tmp_path):
    encode_clip(tmp_path / "clip.mkv", num_frames=128)
    whole = (tmp_path / "clip.mkv").read_bytes()
    with pytest.raises(BadSample, match=r"truncated: its header says 16.0 s"):
        probe(whole[: len(whole) // 2])


def test_a_window_or_an_order_that_does_not_fit_is_a_bad_sample():
    source = clip_bytes(num_frames=16)
    with pytest.raises(BadSample, match="no frame between 5"):
        decode(source, 4, start_s=5.0)
    for order in ([0, 1], [0, 1, 2, 4], [0, 1, 2, -1]):
        with pytest.raises(BadSample, match="frame_order"):
            decode(source, 4, frame_order=order)
    with pytest.raises(ValueError, match="num_frames must be >= 1"):
        decode(source, 0)


def sequential(path, wanted):
    """Oracle for long clips: the wanted frames of a plain sequential decode, how many there are, and the codec."""
    found = {}
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
        return found, number + 1, stream.codec_context.name


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no real clips beside the checkout")
def test_real_clips_decode_exactly():
    paths = [path for path in sorted(REAL.iterdir()) if path.suffix[1:] in VIDEO_EXTENSIONS]
    kinds = set()
    for path in paths:
        info = probe(path)
        wanted = {rule: rule.positions(info.num_frames, info.fps) for rule in (Uniform(16), Fps(1.0))}
        expected, count, codec = sequential(path, set(itertools.chain(*wanted.values())))
        assert info.num_frames == count, path.name
        for backend, (rule, frames) in itertools.product(backends(), wanted.items()):
            shown = decode(path, rule, backend=backend).frames
            assert torch.equal(shown, torch.stack([expected[frame] for frame in frames])), (path.name, rule, backend)
        check_ends(path)
        kinds |= {path.suffix[1:], codec, "short" if count < 16 else "long"}
    assert kinds == {"avi", "mkv", "mp4", "h264", "hevc", "libdav1d", "short", "long"}


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no real clips beside the checkout")
def test_real_clips_are_measured_alike_by_their_table_and_by_their_packets(monkeypatch):
    paths = [path for path in sorted(REAL.iterdir()) if path.suffix[1:] in VIDEO_EXTENSIONS]
    by_table = [probe(path) for path in paths]
    monkeypatch.setattr(probe_module, "_by_header", lambda source, limits: None)
    assert [probe(path) for path in paths] == by_table


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no real clips beside the checkout")
def test_real_clips_sound_as_long_as_they_are_shown():
    for name in ("sam2_01_dog.mp4", "intel_car-detection.mp4", "energon_sync_test.mp4", "torchcodec_nasa_13013.mp4"):
        path = REAL / name
        whole, part = clip_sound(path), clip_sound(path, 2.0, 3.0)
        assert -1e-3 < probe(path).duration_s - len(whole) / 16000 < 0.1, name
        assert torch.equal(part, whole[32000:48000])


def test_the_ends_of_a_clip_are_decoded_and_damage_there_is_found():
    for options in ({"gop": 250}, {"gop": 7}, {"gop": 1}, {"gop": 12, "container": "avi"}, {"num_frames": 1}):
        check_ends(clip_bytes(**options))
    with pytest.raises(BadSample, match="does not decode"):
        check_ends(clip_bytes()[:3000])


@pytest.mark.parametrize("options", [{}, {"gop": 1}, {"b_frames": 0}, {"num_frames": 1}, {"audio": True}])
def test_an_mp4_is_measured_alike_by_its_table_and_by_its_packets(options, monkeypatch):
    source = clip_bytes(**options)
    by_table = probe(source)
    monkeypatch.setattr(probe_module, "_by_header", lambda source, limits: None)
    assert probe(source) == by_table
