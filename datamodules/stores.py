"""Where shards' bytes lie: on a disk, behind byte ranges of a remote store, or in a cold store fetched shard by shard.

One interface for all: ``read(name, offset, size)``. What fails for a moment is tried again with growing pauses; what
fails for good is one bad sample.
"""

import fcntl
import hashlib
import logging
import os
import re
import shlex
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .quarantine import BadSample

log = logging.getLogger(__name__)

# what a cold store names, and so may remove
_SHARD = re.compile(r"[0-9a-f]{24}\.shard")
_PART = re.compile(r"[0-9a-f]{24}\.part")


class Store(ABC):
    """Bytes of named files.

    Args:
        attempts: How often a read is tried.
        wait_s: Pause before the second try in seconds; it doubles with each further one.

    Raises:
        ValueError: Numbers out of range.

    """

    def __init__(self, attempts: int = 4, wait_s: float = 0.5) -> None:
        if attempts < 1 or wait_s < 0:
            raise ValueError(f"attempts must be >= 1 and wait_s >= 0, got {attempts} and {wait_s}")
        self.attempts, self.wait_s = attempts, wait_s

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer where it ends sooner.

        Args:
            name: As the manifest names it.
            offset: First byte.
            size: How many.

        Raises:
            BadSample: The file is not there, or every try failed.

        """
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.wait_s * 2 ** (attempt - 1))
            try:
                return self._read(name, offset, size)
            except (FileNotFoundError, PermissionError) as error:
                raise BadSample(f"cannot open the file: {error.strerror or type(error).__name__}") from error
            except (AttributeError, NameError, TypeError):
                raise  # a mistake of ours is no bad sample
            except Exception as error:  # remote stores raise what their libraries like; each is a failed try
                last = error
        raise BadSample(f"cannot read the file after {self.attempts} tries: {type(last).__name__}") from last

    @abstractmethod
    def _read(self, name: str, offset: int, size: int) -> bytes: ...


class LocalStore(Store):
    """Files of a folder, on a disk or a network file system, by ``pread``.

    Args:
        root: The folder.
        attempts: As for :class:`Store`.
        wait_s: As for :class:`Store`.

    """

    def __init__(self, root: str | Path, attempts: int = 4, wait_s: float = 0.5) -> None:
        super().__init__(attempts, wait_s)
        self.root = Path(root)

    def _read(self, name: str, offset: int, size: int) -> bytes:
        return _pread(self.root / name, offset, size)


class RangeStore(Store):
    """Byte ranges of files behind any protocol of fsspec (``https://``, ``s3://``, ``gs://``, ``memory://`` ...).

    Args:
        url: The folder that holds the shards.
        attempts: As for :class:`Store`.
        wait_s: As for :class:`Store`.

    Raises:
        ValueError: A protocol that fsspec does not know, or whose package is not installed.

    """

    def __init__(self, url: str, attempts: int = 4, wait_s: float = 0.5) -> None:
        super().__init__(attempts, wait_s)
        import fsspec

        try:
            fsspec.get_filesystem_class(fsspec.core.split_protocol(url)[0])
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be read: {error}; install the package of its protocol") from error
        self.url = url.rstrip("/")
        self._opened: tuple[int, Any] | None = None

    def _read(self, name: str, offset: int, size: int) -> bytes:
        data = self._file_system().cat_file(f"{self.url}/{name}", start=offset, end=offset + size)
        return bytes(data)

    def _file_system(self) -> Any:
        # fsspec's event loop does not survive a fork: every worker opens its own
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            options = {"skip_instance_cache": True}
            self._opened = os.getpid(), fsspec.core.url_to_fs(self.url, **options)[0]
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


class ColdStore(Store):
    """Shards fetched whole, one after the other, into a bounded folder, and read there.

    Args:
        url: Where a shard comes from, as ``webdataset.gopen`` opens it, with ``{shard}`` for its name:
            ``https://host/data/{shard}``, ``gs://bucket/{shard}``, ``pipe:aws s3 cp s3://bucket/{shard} -``.
        cache: Folder for the shards; processes of one machine share it.
        cache_gb: The folder's size at most, in 10^9 bytes, beside the shards on their way; those longest unused go
            first. It has to hold the shards that an epoch reads at a time: a shard fetched again is logged.
        attempts: As for :class:`Store`.
        wait_s: As for :class:`Store`.

    Raises:
        ValueError: No ``{shard}`` in the url, a scheme that nothing opens, or numbers out of range.

    """

    def __init__(self, url: str, cache: str, cache_gb: float = 50.0, attempts: int = 4, wait_s: float = 0.5) -> None:
        super().__init__(attempts, wait_s)
        if "{shard}" not in url:
            raise ValueError(f"url must say where a shard's name goes, as in pipe:cat /data/{{shard}}, got {url!r}")
        if not cache_gb > 0:
            raise ValueError(f"cache_gb must be > 0, got {cache_gb}")
        _check_scheme(url)
        self.url, self.cache, self.max_bytes = url, Path(cache), round(cache_gb * 1e9)
        self._fetched, self._warned = set[str](), False

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Refuse shards that the cache cannot hold.

        Args:
            sizes: Bytes of each shard.

        Raises:
            ValueError: One is larger than the cache.

        """
        for name, size in sizes.items():
            if size > self.max_bytes:
                raise ValueError(
                    f"shard {name} of {size / 1e9:g} GB does not fit into the cache {self.cache} of "
                    f"{self.max_bytes / 1e9:g} GB; raise cache_gb to hold all shards that are read at a time"
                )

    def _read(self, name: str, offset: int, size: int) -> bytes:
        digest = hashlib.sha256(f"{self.url}\n{name}".encode()).hexdigest()[:24]
        path = self.cache / f"{digest}.shard"
        self.cache.mkdir(parents=True, exist_ok=True)
        with _locked(self.cache / f"{digest}.lock"):
            if not path.exists():
                self._fetch(name, path)
            try:
                os.utime(path)
                payload = _pread(path, offset, size)
            except FileNotFoundError as error:
                raise OSError(f"another process made room for its own shard and removed {name}") from error
            if len(payload) < size:
                # cut on its way here; the next try fetches it anew
                path.unlink()
                self._fetched.discard(name)
                raise OSError(f"shard {name} was fetched only in part")
        return payload

    def _fetch(self, name: str, path: Path) -> None:
        from webdataset.gopen import gopen

        _remove_leftovers(self.cache)
        # a shell reads what stands behind pipe:
        quoted = shlex.quote(name) if self.url.startswith("pipe:") else name
        part = path.with_suffix(".part")
        with gopen(self.url.replace("{shard}", quoted)) as stream, part.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        trim(self.cache, _SHARD, self.max_bytes - part.stat().st_size)
        part.rename(path)
        if name in self._fetched and not self._warned:
            self._warned = True
            log.warning(
                "shard %s was fetched again: the cache %s of %g GB did not keep it until it was read again; if that "
                "happens within an epoch, raise cache_gb, or lower shuffle_window so that fewer shards are in use",
                *(name, self.cache, self.max_bytes / 1e9),
            )
        self._fetched.add(name)


def trim(folder: Path, pattern: re.Pattern[str], max_bytes: int) -> None:
    """Remove the files longest unused until the rest fits; others may remove them at the same time.

    Args:
        folder: Of a cache.
        pattern: What the cache's own files match in full, by their paths below the folder; others are never touched.
        max_bytes: What may stay.

    """
    files = []
    for path in folder.rglob("*"):
        if not pattern.fullmatch(path.relative_to(folder).as_posix()):
            continue
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def _check_scheme(url: str) -> None:
    from webdataset.gopen import gopen_schemes, rewrite_url

    scheme = urlparse(rewrite_url(url)).scheme
    if scheme not in ("", "file", *gopen_schemes):
        raise ValueError(
            f"{url!r}: nothing opens {scheme}:// here; name the command that does, "
            "as in pipe:aws s3 cp s3://bucket/{shard} -"
        )


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[None]:
    """One process at a time: the others wait for the same shard instead of fetching it too.

    The system drops the lock of a process that is killed; its empty file stays, since others may hold it by then.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
        yield


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of a fetch: who still fetches holds the lock of the shard."""
    for part in folder.glob("*.part"):
        if _PART.fullmatch(part.name):
            with suppress(BlockingIOError), _locked(part.with_suffix(".lock"), fcntl.LOCK_NB):
                part.unlink(missing_ok=True)


def _pread(path: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # one pread returns at most 2 GiB, and less on some network file systems
        pieces, done = [], 0
        while done < size and (piece := os.pread(descriptor, size - done, offset + done)):
            pieces.append(piece)
            done += len(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces) if len(pieces) != 1 else pieces[0]
