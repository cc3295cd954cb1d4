"""Resized frames kept on disk from round to round: plain arrays, a bounded folder, nothing in it that runs."""

import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from .stores import trim
from .video import Clip

log = logging.getLogger(__name__)

# files of this cache, relative to its folder; a user may name a folder that holds others. Those still being written
# are among them: one that a killed process left counts, and goes as it grows old
OWN_NAME = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64}\.npz|\.[0-9a-f]{64}\..{8})")
# a worker looks at the whole folder once for so many parts of the bound that it wrote itself
_PARTS = 32


class FrameCache:
    """Clips by the content of their video and how it is looked at.

    A file appears whole or not at all. One that cannot be read (a full disk, a power cut) is a clip not yet kept.

    Args:
        folder: Where the files lie; processes of one machine share it.
        max_gb: The folder's size in 10^9 bytes; the clips longest unused go first. Each process may pass it by 1/32.

    Raises:
        ValueError: A size that is not positive.

    """

    def __init__(self, folder: str | Path, max_gb: float = 50.0) -> None:
        if not max_gb > 0:
            raise ValueError(f"max_gb must be > 0, got {max_gb}")
        self.folder, self.max_bytes = Path(folder), int(max_gb * 1e9)
        self._unseen = self.max_bytes  # written since the folder was last looked at: the first write looks

    def path(self, **what: object) -> Path:
        """File of a clip, named by everything that makes its frames."""
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.npz"

    def get(self, path: Path) -> Clip | None:
        """The clip of a file; None where there is none that can be read."""
        try:
            os.utime(path)
            with np.load(path, allow_pickle=False) as kept:
                frames, times, fps = kept["frames"], kept["timestamps_s"], float(kept["fps"])
            if frames.dtype != np.uint8 or frames.ndim != 4 or times.shape != frames.shape[:1]:
                raise ValueError("not the frames of a clip")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
            with suppress(OSError):  # another user's: the next one to look decodes it too
                path.unlink(missing_ok=True)
            return None
        return Clip(torch.from_numpy(frames), times.tolist(), fps)

    def put(self, path: Path, clip: Clip) -> None:
        """Keep a clip's frames (its sound is cheap to decode again).

        Args:
            path: From :meth:`path`.
            clip: As decoded, before any order of its frames.

        """
        size = clip.frames.numel()
        if size > self.max_bytes // _PARTS:
            return
        try:
            self._write(path, clip)
        except OSError as error:  # a full disk: the frames are there, only not kept
            log.warning("frame cache: %s is not kept (%s)", path, error.strerror)
            return
        self._unseen += size
        if self._unseen > self.max_bytes // _PARTS:
            trim(self.folder, OWN_NAME, self.max_bytes)
            self._unseen = 0

    def _write(self, path: Path, clip: Clip) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, frames=clip.frames.numpy(), timestamps_s=np.array(clip.timestamps_s), fps=clip.fps)
            os.chmod(temporary, 0o644)  # mkstemp's are for one user alone
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
