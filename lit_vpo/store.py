"""Tensors on disk by key: what is costly to compute and always comes out the same."""

import logging
import os
import re
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

ENTRY = re.compile(r"[0-9a-f]{16}-[\w-]+/([0-9a-f]{2})/\1[0-9a-f]*\.safetensors")


class TensorStore:
    """A folder of safetensors files, one per key, each written in one step: processes share it without locks.

    What belongs together (one network's results) lies in one namespace, a subfolder; keys are those of contents, so
    whoever writes a key writes the same tensors.

    Args:
        folder: Made where it is missing.
        namespace: Name of the subfolder: 16 hexadecimal digits, a dash, and what else tells it apart.
        limit_gb: Bound on the whole folder in GB; what was not read for longest goes first. No bound by default.

    Raises:
        ValueError: If the folder cannot be made, or the bound is not positive.
    """

    def __init__(self, folder: str | Path, namespace: str, limit_gb: float | None = None) -> None:
        if limit_gb is not None and not limit_gb > 0:
            raise ValueError(f"the bound of a cache must be > 0 GB, got {limit_gb}")
        self.folder, self.namespace = Path(folder), namespace
        self.limit = None if limit_gb is None else limit_gb * 1e9
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the cache folder {folder}: {error.strerror}") from error
        self.used = sum(file.stat().st_size for file in self._files())

    def path(self, key: str) -> Path:
        """Where a key's tensors lie; 256 folders keep each of them short."""
        return self.folder / self.namespace / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Tensors of a key on the CPU, or None; a file that does not open counts as none, and says so in the log."""
        path = self.path(key)
        try:
            tensors: dict[str, Tensor] = load_file(path)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            log.warning("cache: %s does not open (%s); it is computed again", path, error)
            return None
        return tensors

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under a key.

        Args:
            key: Hexadecimal digits.
            tensors: On any device.
        """
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        os.close(descriptor)
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
            self.used += Path(temporary).stat().st_size
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if self.limit is not None and self.used > self.limit:
            self._shrink(0.9 * self.limit)  # some room, so that not every write scans the folder

    def drop_other_namespaces(self) -> None:
        """Remove what other namespaces hold: results of a network that is no longer asked."""
        others = [file for file in self._files() if file.parents[1].name != self.namespace]
        if others:
            log.info("cache: %d entries of other weights are removed from %s", len(others), self.folder)
        for file in others:
            file.unlink(missing_ok=True)  # another rank may be removing it too

    def _files(self) -> list[Path]:
        """All entries; nothing else in the folder is ever touched, whatever folder a user names."""
        files = self.folder.glob("*/*/*.safetensors")
        return [file for file in files if ENTRY.fullmatch(file.relative_to(self.folder).as_posix())]

    def _shrink(self, size: float) -> None:
        stats = [(file.stat(), file) for file in self._files()]
        self.used = sum(stat.st_size for stat, _ in stats)
        for stat, file in sorted(stats, key=lambda entry: entry[0].st_mtime_ns):
            if self.used <= size:
                return
            file.unlink(missing_ok=True)
            self.used -= stat.st_size
