"""Content hashes of the files and folders that a command reads, cheap enough for every launch of a recipe."""

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.jsonl"  # written out here: the package that owns it imports torch
MEDIA = {".tar", ".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v", ".mpg", ".mpeg"} | {
    f".{name}" for name in ("wav", "flac", "mp3", "m4a", "aac", "ogg", "opus")
}
_GROUPS = {"data", "pairs"}  # commands whose second word is a part of their name
_WRITTEN = re.compile(r"--(out|results|run_dir|.*callbacks\.path|.*_cache|.*quarantine)")
_BETWEEN = re.compile(r"[\s,=:{}\[\]'\"]+")


def content_hash(path: str | Path) -> str | None:
    """Hash of what a file or folder holds; None if there is none.

    A folder with a manifest is known by the manifest's first line, which holds the hash of all samples. Of any other
    folder every file counts, by its name and bytes; videos, sounds and tars by their name and size alone, because
    nobody wants to wait for a terabyte to be read.
    """
    path = Path(path)
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        return None
    if (path / MANIFEST).is_file():
        with (path / MANIFEST).open("rb") as file:
            return _short(hashlib.sha256(file.readline()))
    digest = hashlib.sha256()
    for name, file_path in sorted((each.relative_to(path).as_posix(), each) for each in path.rglob("*")):
        if file_path.is_file():
            known_by = file_path.stat().st_size if file_path.suffix.lower() in MEDIA else _of_file(file_path)
            digest.update(json.dumps([name, known_by]).encode())
    return _short(digest)


def named_inputs(words: Sequence[str], out: Path | None = None) -> dict[str, str]:
    """The files and folders that a command names and that exist now, with their hashes.

    Left out are `out` with all that lies in it, and what stands behind an option that commands write to (`--out`,
    `--run_dir`, `--results`, a callback's path, caches). Lists, mappings and globs inside a word are looked through.

    Args:
        words: The command's words after `python -m lit_vpo`.
        out: What the command makes.
    """
    own = None if out is None else out.resolve()
    found = dict.fromkeys(path for value in _values(words) for path in _paths(value))
    read = [path for path in found if own is None or not Path(path).resolve().is_relative_to(own)]
    return {path: known for path in read if (known := content_hash(path)) is not None}


def _values(words: Sequence[str]) -> Iterator[str]:
    """Words that may name something to read."""
    option = ""
    for word in words[2 if words[0] in _GROUPS else 1 :]:
        is_option = word.startswith("--")
        name, separator, value = word.partition("=") if is_option else (option, "=", word)
        if separator and value and not _WRITTEN.fullmatch(name):
            yield value
        option = name if is_option and not separator else ""


def _paths(value: str) -> list[str]:
    if Path(value).exists():
        return [value]
    parts = [part for part in _BETWEEN.split(value) if part.strip("/*")]
    # an overlay in one part per rank is named without the parts' ends (NAME.jsonl.0-8)
    return sorted(path for part in parts for path in glob.glob(part) or glob.glob(f"{part}.*-*"))


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return _short(hashlib.file_digest(file, "sha256"))


def _short(digest: Any) -> str:
    return str(digest.hexdigest())[:16]
