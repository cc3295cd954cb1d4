"""Write shards: plain WebDataset tars of videos and their records, with the manifest beside them."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from .container import AUDIO_EXTENSIONS, VIDEO_EXTENSIONS
from .manifest import FILE_NAME, Manifest, index_shards
from .tars import KEY_RULE


class ShardWriter:
    """Context manager that fills ``PREFIX-000000.tar``, ``PREFIX-000001.tar``, ... and ends with the manifest.

    Equal samples give equal bytes: headers carry no time and a fixed user. A shard bears its name only when everything
    is written; until then it ends in ``.part``, so a crash leaves nothing that looks finished.

    Args:
        out_dir: A folder without shards (made where missing).
        prefix: First part of the shards' names.
        max_samples: Samples a shard holds at most.
        max_bytes: Bytes of payload a shard holds at most (a larger single sample gets a shard of its own).

    Raises:
        ValueError: The folder already holds shards.

    """

    def __init__(
        self, out_dir: str | Path, prefix: str = "shard", max_samples: int = 1000, max_bytes: int = 512 * 1024 * 1024
    ) -> None:
        if max_samples < 1 or max_bytes < 1:
            raise ValueError(f"max_samples and max_bytes must be >= 1, got {max_samples} and {max_bytes}")
        self.out_dir = Path(out_dir)
        if any(self.out_dir.glob("*.tar")) or (self.out_dir / FILE_NAME).exists():
            raise ValueError(f"{self.out_dir} already holds shards; choose another folder or remove it first")
        self.prefix, self.max_samples, self.max_bytes = prefix, max_samples, max_bytes
        self.manifest: Manifest | None = None
        self._keys: set[str] = set()
        self._parts: list[Path] = []
        self._tar: Any = None
        self._samples_in_shard = 0
        self._bytes_in_shard = 0

    def __enter__(self) -> "ShardWriter":
        self.out_dir.mkdir(parents=True, exist_ok=True)
        for part in self.out_dir.glob(f"{self.prefix}-*.tar.part"):
            part.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_shard()
        if kind is not None:
            for part in self._parts:
                part.unlink()
            return
        for part in self._parts:
            part.rename(part.with_suffix(""))
        self.manifest = index_shards(self.out_dir)
        self.manifest.save()

    def write(
        self,
        key: str,
        record: dict[str, Any],
        video: bytes | Path,
        extension: str = "mp4",
        audio: Path | None = None,
    ) -> None:
        """Append one sample: its json, then its video (a reader may drop a sample before the video's bytes arrive).

        Args:
            key: ``[A-Za-z0-9_-]+``, not used before.
            record: The sample's record; plain JSON values.
            video: The file's bytes, or its path.
            extension: The video's extension without dot.
            audio: File of the sound that is kept apart from the video; None writes none.

        Raises:
            ValueError: A key that breaks the rule or stands twice, or an extension that is no video's.

        """
        if not KEY_RULE.fullmatch(key):
            raise ValueError(
                f"key {key!r} must match {KEY_RULE.pattern} (dots and slashes mean something else inside a tar)"
            )
        if key in self._keys:
            raise ValueError(f"key {key!r} was written before; keys are unique over a data set")
        if extension.lower() not in VIDEO_EXTENSIONS:
            raise ValueError(f"extension {extension!r} is none of {', '.join(VIDEO_EXTENSIONS)}")
        if audio is not None and audio.suffix[1:].lower() not in AUDIO_EXTENSIONS:
            raise ValueError(f"audio {audio} is none of {', '.join(AUDIO_EXTENSIONS)}")
        document = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
        payload = video if isinstance(video, bytes) else video.read_bytes()
        sound = {} if audio is None else {audio.suffix[1:].lower(): audio.read_bytes()}
        self._make_room(len(document) + len(payload) + sum(map(len, sound.values())))
        # calls of their own: TarWriter sorts the members of one call by name, which would put .avi before .json
        self._tar.write({"__key__": key, "json": document})
        self._tar.write({"__key__": key, extension: payload})
        if sound:
            self._tar.write({"__key__": key, **sound})
        self._keys.add(key)

    def _make_room(self, size: int) -> None:
        full = self._samples_in_shard >= self.max_samples or self._bytes_in_shard + size > self.max_bytes
        if self._tar is not None and full:
            self._close_shard()
        if self._tar is None:
            self._open_shard()
        self._samples_in_shard += 1
        self._bytes_in_shard += size

    def _open_shard(self) -> None:
        from webdataset.writer import TarWriter

        part = self.out_dir / f"{self.prefix}-{len(self._parts):06d}.tar.part"
        self._parts.append(part)
        self._tar = TarWriter(str(part), encoder=False, mtime=0, user="lit_vpo", group="lit_vpo", compress=False)
        self._samples_in_shard = self._bytes_in_shard = 0

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
