"""What a WebDataset tar holds, from its headers alone: ours and those that other tools wrote.

A tar is judged in two ways. What makes its samples uncertain (a damaged header, an end too soon, members of a sample
that are not adjacent, a key outside the rule) is an error that names it; what spoils one sample is that sample's fault.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .container import VIDEO_EXTENSIONS

KEY_RULE = re.compile(r"[A-Za-z0-9_-]+")
# formats whose readers run code; nothing here opens them, and a sample that brings one was not made for training
PYTHON_OBJECTS = ("pkl", "pickle", "pyd", "pth", "pt", "joblib")
# long names and pax records are read into memory whole
MAX_HEADER_BYTES = 1 << 16

_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


@dataclass(frozen=True)
class TarSample:
    """One sample of a tar.

    Attributes:
        key: Its members' common name, with ``_`` for each dot.
        members: Extension -> (offset, bytes).
        fault: Why it cannot be used; None if it can.

    """

    key: str
    members: dict[str, tuple[int, int]]
    fault: str | None = None


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int
    is_file: bool


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENDED and info.size > MAX_HEADER_BYTES):
            raise tarfile.HeaderError(f"a header of {info.size} bytes, more than {MAX_HEADER_BYTES}")
        return info


def tar_samples(path: Path) -> list[TarSample]:
    """Samples of a tar, in its order.

    Raises:
        ValueError: A damaged or cut tar, a key outside the rule, a member or a sample that stands twice.

    """
    members = _members(path)
    stems = {name.rpartition(".")[0] for name in (m.name for m in members) if _extension(name) in VIDEO_EXTENSIONS}
    groups: list[tuple[str, list[_Member]]] = []
    seen: dict[str, str] = {}
    for member in members:
        stem = _stem(member.name, stems)
        if not groups or groups[-1][0] != stem:
            _check_key(path, stem, seen)
            groups.append((stem, []))
        groups[-1][1].append(member)
    return [_sample(path, stem, group) for stem, group in groups]


def check_key(key: str, where: object) -> None:
    """Refuse a key that is no ``[A-Za-z0-9_-]+``.

    Raises:
        ValueError: Names ``where`` and the key.

    """
    if not KEY_RULE.fullmatch(key):
        raise ValueError(f"{where}: key {key!r} must match {KEY_RULE.pattern}; rename the members and pack again")


def _check_key(path: Path, stem: str, seen: dict[str, str]) -> None:
    key = stem.replace(".", "_")
    if not KEY_RULE.fullmatch(key):
        check_key(stem, path)
    if seen.get(key) == stem:
        raise ValueError(
            f"{path}: members of sample {stem!r} are not adjacent, or it stands twice; sort them by name and pack again"
        )
    if key in seen:
        raise ValueError(f"{path}: {seen[key]!r} and {stem!r} would both have the key {key!r}; rename one of them")
    seen[key] = stem


def _sample(path: Path, stem: str, group: list[_Member]) -> TarSample:
    members: dict[str, tuple[int, int]] = {}
    faults = list[str]()
    for member in group:
        extension = member.name[len(stem) + 1 :]
        if extension in members:
            raise ValueError(f"{path}: member {member.name!r} stands twice; pack the shard again")
        members[extension] = (member.offset, member.size)
        if not member.is_file:
            faults.append(f"member .{extension} is a link or a device, which may lead out of the shard")
        if _extension(member.name) in PYTHON_OBJECTS:
            faults.append(f"member .{extension} may hold Python objects, which are never read")
    videos = [extension for extension in members if extension.lower() in VIDEO_EXTENSIONS]
    if len(videos) != 1:
        faults.append(f"half a sample: it has {len(videos)} videos among its members {', '.join(sorted(members))}")
    return TarSample(stem.replace(".", "_"), members, faults[0] if faults else None)


def _stem(name: str, video_stems: set[str]) -> str:
    """The longest part before a dot that a video has too; else what stands before the last dot.

    WebDataset cuts at the first dot, which merges ``clip.0001.mp4`` and ``clip.0002.mp4`` into one sample.
    """
    parts = name.split(".")
    cuts = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    return next((cut for cut in cuts if cut in video_stems), cuts[0] if cuts else name)


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _members(path: Path) -> list[_Member]:
    """Members but folders. tarfile ends silently at a damaged header, so what follows must be zeros."""
    total = path.stat().st_size
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as tar:
            infos = list(_bounded(tar, total))
    except (tarfile.TarError, OverflowError, ValueError) as error:  # the map of a sparse member raises ValueError
        raise ValueError(f"{path} is not a readable tar ({error}); pack or copy it again") from error
    members = [
        _Member(info.name.removeprefix("./"), info.offset_data, info.size if info.isreg() else 0, _plain(info))
        for info in infos
        if not info.isdir()
    ]
    end = max((info.offset_data + (info.size + 511) // 512 * 512 * info.isreg() for info in infos), default=0)
    if total - end < 1024 or not _zeros_from(path, end):
        raise ValueError(
            f"{path} is damaged or cut after {len(members)} members, at byte {min(end, total)}; pack or copy it again"
        )
    return members


def _bounded(tar: tarfile.TarFile, total: int) -> Iterator[tarfile.TarInfo]:
    """Members; a pax header may give any size, and tarfile would seek there, or back.

    Of a sparse file only the pieces that are no hole lie in the tar, behind a map: its bytes are not at one place.
    """
    for info in tar:
        if info.issparse():
            raise tarfile.HeaderError(f"member {info.name!r} is stored as a sparse file; leave out tar's --sparse")
        if not 0 <= info.size <= total:
            raise tarfile.HeaderError(f"member {info.name!r} of {info.size} bytes, in a file of {total}")
        yield info


def _zeros_from(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(1 << 20):
            if any(piece):
                return False
    return True


def _plain(info: tarfile.TarInfo) -> bool:
    return info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
