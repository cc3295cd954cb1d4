"""The manifest: where every sample of a folder lies and what its video holds, in one sidecar file.

It lies beside shards (tars) or loose videos and is built by demuxing (nothing is decoded). Its hash names a run's data.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lit_vpo.atomic import read_lines, write_lines

from .container import AUDIO_EXTENSIONS, VIDEO_EXTENSIONS
from .probe import probe
from .quarantine import BadSample, Quarantine, forget
from .tars import KEY_RULE, check_key, tar_samples

FILE_NAME = "manifest.jsonl"
FORMAT = 1

Member = tuple[int, int, int]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """One sample's place and shape.

    Attributes:
        key: ``[A-Za-z0-9_-]+``, unique over the data set.
        shard: File name relative to the folder: a tar, or the video itself where it lies loose.
        members: Extension -> (offset in the file, size in bytes, crc32).
        num_frames: Frames of the video stream.
        fps: Average frames per second.
        duration_s: Until the end of the last frame.
        height: Picture height in pixels.
        width: Picture width in pixels.
        has_audio: Whether an audio stream is there.

    """

    key: str
    shard: str
    members: dict[str, Member]
    num_frames: int
    fps: float
    duration_s: float
    height: int
    width: int
    has_audio: bool

    @property
    def video_extension(self) -> str:
        """Extension of the member that holds the video."""
        return next(extension for extension in self.members if extension.lower() in VIDEO_EXTENSIONS)

    @property
    def audio_extension(self) -> str | None:
        """Extension of the member that holds the sound apart from the video; None where there is none."""
        return next((extension for extension in self.members if extension.lower() in AUDIO_EXTENSIONS), None)


@dataclass(frozen=True)
class Manifest:
    """The samples of one folder, in the order of its shards."""

    root: Path
    samples: tuple[Sample, ...]

    @cached_property
    def hash(self) -> str:
        """Content hash: equal for equal shards in another folder, other for any changed byte."""
        # a data set has 10^5 samples: asdict copies every member, dumps with options makes an encoder for each line
        encode = json.JSONEncoder(sort_keys=True).encode
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(encode(vars(sample)).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def by_key(self) -> dict[str, Sample]:
        """Samples by their key."""
        return {sample.key: sample for sample in self.samples}

    def save(self) -> Path:
        """Write ``manifest.jsonl`` into the folder in one step; returns its path."""
        path = self.root / FILE_NAME
        sizes = {name: (self.root / name).stat().st_size for name in sorted({sample.shard for sample in self.samples})}
        header = {"format": FORMAT, "hash": self.hash, "num_samples": len(self.samples), "shards": sizes}
        write_lines(path, map(json.dumps, [header, *map(vars, self.samples)]))
        return path

    @classmethod
    def load(cls, folder: str | Path, remote: bool = False) -> "Manifest":
        """Read a folder's manifest and check that the shards it names are still there at their size.

        Args:
            folder: Where ``manifest.jsonl`` lies.
            remote: The shards lie elsewhere, so only the manifest itself is checked.

        Raises:
            ValueError: No manifest, a damaged one, or a shard that is missing or of another size.

        """
        path = Path(folder) / FILE_NAME
        if not path.exists():
            raise ValueError(f"{path} does not exist; make it with: python -m lit_vpo data index {folder}")
        try:
            header, *rows = [json.loads(line) for line in read_lines(path)]
            manifest = cls(Path(folder), tuple(map(_sample, rows)))
            shards: dict[str, int] = header["shards"]
            complete = header["hash"] == manifest.hash and header["num_samples"] == len(rows)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; make it anew with: python -m lit_vpo data index {folder}") from error
        if not complete:
            raise ValueError(f"{path} was edited or cut; make it anew with: python -m lit_vpo data index {folder}")
        for name, size in shards.items():
            # a missing loose video is one bad sample; a cut tar is hundreds, so it stops here
            if not remote and name.endswith(".tar") and _size(manifest.root / name) != size:
                raise ValueError(
                    f"{manifest.root / name} is missing or has another size than when it was indexed "
                    f"({_size(manifest.root / name)} instead of {size} bytes); restore it, or index the folder again"
                )
        return manifest


def shard_sizes(folder: str | Path) -> dict[str, int]:
    """Bytes of each shard as a folder's manifest says; none where :meth:`Manifest.load` would refuse its first line."""
    try:
        with (Path(folder) / FILE_NAME).open(encoding="utf-8") as file:
            return dict(json.loads(file.readline())["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def index(folder: str | Path, progress: Progress | None = None) -> Manifest:
    """Build and save the manifest of a folder of shards, or of loose videos where it holds no tar.

    Args:
        folder: Where the shards or videos lie.
        progress: Called with each sample's key when it is done.

    Raises:
        ValueError: No sample, a damaged shard, or keys that break the rule.

    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    manifest = index_shards(root, progress) if any(root.glob("*.tar")) else index_videos(root, progress)
    if not manifest.samples:
        raise ValueError(f"{root} holds no usable shard or video ({', '.join(VIDEO_EXTENSIONS)})")
    manifest.save()
    return manifest


def index_shards(folder: str | Path, progress: Progress | None = None) -> Manifest:
    """Manifest (not saved) over the tars of a folder, whoever wrote them; samples that cannot be used go to quarantine.

    Lines that an earlier index wrote there are dropped first: a repaired folder becomes clean.

    Raises:
        ValueError: What :func:`lit_vpo.datamodules.tars.tar_samples` refuses, or a key that stands in two shards.

    """
    root = Path(folder)
    sources = (source for shard in sorted(root.glob("*.tar")) for source in _tar_sources(shard))
    return _build(root, sources, progress)


def index_videos(folder: str | Path, progress: Progress | None = None) -> Manifest:
    """Manifest (not saved) over loose videos of a folder and its subfolders: one file is one sample.

    The key is the path below the folder without its extension, with ``_`` for every character outside the key rule.
    A ``.json`` of the same name holds the record. The quarantine is renewed as by :func:`index_shards`.

    Raises:
        ValueError: Two files with the same key.

    """
    root = Path(folder)
    return _build(root, (_loose_sample(root, path) for path in list_videos(root)), progress)


def list_videos(folder: str | Path) -> list[Path]:
    """Video files below a folder, sorted by path."""
    paths = Path(folder).rglob("*")
    return sorted(path for path in paths if path.is_file() and path.suffix[1:].lower() in VIDEO_EXTENSIONS)


def key_of(path: Path) -> str:
    """Key of a loose file, from its path relative to the folder: ``a/b.1.mp4`` -> ``a_b_1``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", path.with_suffix("").as_posix())


class _Source(NamedTuple):
    key: str
    shard: str
    members: dict[str, Member]
    video: bytes | Path
    fault: str | None = None


def _build(root: Path, sources: Iterator[_Source], progress: Progress | None) -> Manifest:
    forget(root, "index")
    quarantine, samples, seen = Quarantine(root, "index"), [], dict[str, str]()
    for key, shard, members, video, fault in sources:
        check_key(key, root / shard)
        if key in seen:
            raise ValueError(f"key {key!r} stands twice: in {seen[key]} and in {shard}; keys are unique over a folder")
        seen[key] = shard
        try:
            if fault is not None:
                raise BadSample(fault)
            samples.append(Sample(key, shard, members, **asdict(probe(video))))
        except BadSample as error:
            quarantine.add(shard, key, str(error))
        if progress is not None:
            progress(key)
    return Manifest(root, tuple(samples))


def _tar_sources(path: Path) -> Iterator[_Source]:
    """Every byte of a shard is read once: for its checksum and, where it is a video, to be measured."""
    with path.open("rb") as file:
        for sample in tar_samples(path):
            members: dict[str, Member] = {}
            video = b""
            for extension, (offset, size) in sample.members.items():
                file.seek(offset)
                payload = file.read(size)
                members[extension] = (offset, size, zlib.crc32(payload))
                if extension.lower() in VIDEO_EXTENSIONS:
                    video = payload
            yield _Source(sample.key, path.name, members, video, sample.fault)


def _loose_sample(root: Path, path: Path) -> _Source:
    relative = path.relative_to(root)
    files = {path.suffix[1:]: path}
    if path.with_suffix(".json").exists():
        files["json"] = path.with_suffix(".json")
    members = {extension: (0, file.stat().st_size, crc32_of(file)) for extension, file in files.items()}
    return _Source(key_of(relative), relative.as_posix(), members, path)


def crc32_of(path: Path) -> int:
    """crc32 of a file, read in pieces."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _sample(row: dict[str, Any]) -> Sample:
    shard = PurePosixPath(row["shard"])
    if shard.is_absolute() or ".." in shard.parts or not KEY_RULE.fullmatch(row["key"]):
        raise ValueError(f"{row['key']!r} in {shard} leads out of the folder, or its key is no key")
    members = {
        extension: (int(place[0]), int(place[1]), int(place[2])) for extension, place in row.pop("members").items()
    }
    return Sample(members=members, **row)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
