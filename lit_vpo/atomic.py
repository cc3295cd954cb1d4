"""Text files of one record per line: read whole; replaced in one step, or longer by one whole line."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file without their newlines, cut at newlines alone.

    Not `str.splitlines`: that also cuts at U+0085, U+2028 and U+2029, which `json.dumps(ensure_ascii=False)` leaves
    as they are inside a string.

    Raises:
        ValueError: The file is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    return lines if lines[-1] else lines[:-1]


def read_whole_lines(path: Path) -> list[str]:
    """Lines that end with a newline, none if there is no file; a line that a kill cut is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [line for line in whole.split("\n") if line]


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file that other processes may add to as well.

    The file and its folder are made where missing. On a local file system lines of several processes do not mix. What
    a killed process left of its line stays as it is: the new line begins behind it.

    Args:
        path: The file.
        line: Without its newline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # unbuffered: a line goes out in one write, which O_APPEND keeps together
    with path.open("ab+", buffering=0) as file:
        end = file.tell()
        torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
        payload = ("\n" * torn + line + "\n").encode()
        while payload:  # a second write happens on a full disk, and raises
            payload = payload[file.write(payload) :]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replace a text file by `lines` in one step: temporary file, fsync, rename.

    Args:
        path: The file to write; its folder is made where missing.
        lines: Lines without their newline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; shards and their sidecars are shared like any other data
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
