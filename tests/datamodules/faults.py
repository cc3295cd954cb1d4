"""Spoilt samples and shards, made on the spot, and the reason that each must be told by."""

import io
import json
import pickle
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from clip_factory import clip_bytes

JSON = b'{"prompt": "What?", "ground_truth": "a cat"}'


class Link(NamedTuple):
    """A member that is no file."""

    target: str
    kind: bytes = tarfile.SYMTYPE


def sound_alone():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def no_frames(container, **options):
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        out.start_encoding()
    return file.getvalue()


def index_first(clip):
    """The same packets with the index before them; the muxer reads its file again, so it needs a real one."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(io.BytesIO(clip)) as source, av.open(file.name, "w", options={"movflags": "faststart"}) as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        return Path(file.name).read_bytes()


def samples(clips, **changed):
    """Members of samples a, b and c; `changed` replaces those of some."""
    return {key: {"json": JSON, "mp4": clip} for key, clip in zip("abc", clips, strict=False)} | changed


def write(folder, table, name="x.tar"):
    """A tar of samples: key -> extension -> bytes or link."""
    members = [(f"{key}.{end}", payload) for key, ends in table.items() for end, payload in ends.items()]
    return write_members(folder, members, name)


def write_members(folder, members, name="x.tar"):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w") as tar:
        for member, payload in members:
            info = tarfile.TarInfo(member)
            if isinstance(payload, Link):
                info.linkname, info.type = payload
                payload = b""
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return folder


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def member(folder, name):
    with tarfile.open(folder / "x.tar") as tar:
        return tar.getmember(name)


def cut(folder, at):
    payload = (folder / "x.tar").read_bytes()
    (folder / "x.tar").write_bytes(payload[:at])


# name -> members of a sample made of a good clip, and how its reason begins
MEMBERS = {
    "half sample, json alone": (lambda clip: {"json": JSON}, "half a sample: it has 0 videos among its members json"),
    "half sample, text alone": (lambda clip: {"txt": b"a cat"}, "half a sample: it has 0 videos among its members txt"),
    "two videos": (
        lambda clip: {"json": JSON, "mkv": clip, "mp4": clip},
        "half a sample: it has 2 videos among its members json, mkv, mp4",
    ),
    "empty mp4": (lambda clip: {"json": JSON, "mp4": b""}, "the video does not decode"),
    "html for mp4": (lambda clip: {"json": JSON, "mp4": b"<html>gone</html>" * 99}, "the video does not decode"),
    "mp4 cut, index last": (lambda clip: {"mp4": clip[: len(clip) // 2]}, "the video does not decode"),
    "mp4 cut, index first": (
        lambda clip: {"mp4": index_first(clip)[:-400]},
        "the video is truncated: its header names",
    ),
    "sound alone": (lambda clip: {"json": JSON, "mp4": sound_alone()}, "the file has no video stream"),
    "no frames": (
        lambda clip: {"json": JSON, "mp4": no_frames("mp4", movflags="empty_moov")},
        "the video has no frames",
    ),
    "no frames, no streams": (lambda clip: {"mp4": no_frames("mp4")}, "the file has no video stream"),
    "no frames, mkv": (lambda clip: {"mkv": no_frames("matroska")}, "the video does not decode"),
    "huge pictures": (
        lambda clip: {"mkv": clip_bytes(num_frames=1, side=8208, height=16, container="matroska")},
        "pictures of 8208 x 16 pixels: more than 8192 on a side",
    ),
    "pickle": (
        lambda clip: {"json": JSON, "mp4": clip, "pkl": pickle.dumps(print)},
        "member .pkl may hold Python objects",
    ),
    "torch file": (lambda clip: {"latent.pth": b"x", "mp4": clip}, "member .latent.pth may hold Python objects"),
    "link out": (lambda clip: {"json": JSON, "mp4": Link("../../secret.mp4")}, "member .mp4 is a link or a device"),
    "hard link": (lambda clip: {"mp4": Link("a.mp4", tarfile.LNKTYPE)}, "member .mp4 is a link or a device"),
}

# name -> json of a sample, and how its reason begins
RECORDS = {
    "no json": (b"{", "member .json is not JSON"),
    "no UTF-8": (b'{"prompt": "caf\xe9"}', "member .json is not UTF-8"),
    "deeply nested": (b'{"meta": ' + b"[" * 200_000, "member .json is not JSON: maximum recursion depth exceeded"),
    "another kind": (b"[1]", "member .json must be an object, got list"),
    "a number for a text": (b'{"prompt": 3}', "member .json, field 'prompt': must be str, got 3"),
    "infinity": (b'{"weight": 1e400}', "member .json, field 'weight': must be a number below 1e+09, not inf"),
    "not a number": (b'{"media": {"end_s": NaN}}', "member .json, field 'media.end_s': must be a number below 1e+09"),
    "a huge integer": (
        b'{"difficulty": 1' + b"0" * 400 + b"}",
        "member .json, field 'difficulty': must be a number below 1e+09",
    ),
    "wrong options": (b'{"meta": {"options": 3}}', "member .json, field 'meta.options': must be a list of texts"),
    "wrong turns": (b'{"history": [3]}', "member .json, field 'history': each turn needs role and content as text"),
}

# name -> what a good record is changed by, and how the reason begins; what only a run looks at
TEXTS = {
    "empty prompt": ({"prompt": " "}, "empty prompt"),
    "no answer": ({"ground_truth": None}, "empty ground_truth"),
    "half a character": ({"prompt": "\ud800"}, "a text holds half a character (a lone surrogate)"),
    "a placeholder": ({"prompt": "<|video_pad|>?"}, "a text contains a media placeholder of the model"),
    "a window behind the end": ({"media": {"start_s": 99.0}}, "the video has no frame between 99.0 s and inf s"),
    "an order of other frames": ({"media": {"frame_order": [0, 7]}}, "frame_order has 2 entries for 4 frames"),
}


def spoilt():
    """Every fault of one sample, as (name, a good clip -> members, how its reason begins)."""
    good = json.loads(JSON)
    for name, (members, reason) in MEMBERS.items():
        yield name, members, reason
    for name, (payload, reason) in RECORDS.items():
        yield name, lambda clip, payload=payload: {"json": payload, "mp4": clip}, reason
    for name, (change, reason) in TEXTS.items():
        yield name, lambda clip, change=change: {"json": json.dumps(good | change).encode(), "mp4": clip}, reason
