"""Public annotation files used where they lie, in place of an overlay: their names of videos become keys."""

from pathlib import Path, PurePosixPath

from .container import VIDEO_EXTENSIONS
from .manifest import Manifest, key_of
from .overlay import Overlay
from .quarantine import read_quarantine
from .schemas import read_annotations


def annotation_overlay(files: str, manifest: Manifest, media_root: str | None = None) -> Overlay:
    """Rows of annotation files, joined to the samples of a manifest by the paths that they name.

    A loose video is the one at the named path. A tar keeps no paths: there the sample is found by the key that packing
    makes of the path, and two paths that lead to one sample are refused.

    Args:
        files: As :func:`lit_vpo.datamodules.schemas.find_files` takes them.
        manifest: Of the videos.
        media_root: Folder that the files' paths begin with and that the manifest's folder stands for; None takes them
            as relative to it.

    Raises:
        ValueError: As :func:`lit_vpo.datamodules.schemas.read_annotations`, or a name that leads to no sample; it names
            file, row and field.

    """
    read = read_annotations(files)
    if read.left_out:
        place, reason = read.left_out[0]
        raise ValueError(f"{place}: {reason} ({len(read.left_out)} such rows); data pack notes them and goes on")
    keys = _Keys(manifest)
    rows = []
    for record, place in zip(read.records, read.places, strict=True):
        media = record.get("media") or {}
        name = media.get("video") or media.get("frames_dir")
        if not name:
            raise ValueError(f"{place}, field 'media': names no video")
        key = keys.find(_below(name, media_root), f"{place}, field 'media'")
        if key is None:
            raise ValueError(
                f"{place}, field 'media': {name!r} is no video of {manifest.root}; if the paths begin with another "
                "folder, name it as data.media_root"
            )
        rows.append({"key": key, **record})
    return Overlay(tuple(rows))


class _Keys:
    """Keys of a folder's samples, those in quarantine too, by the paths of their videos."""

    def __init__(self, manifest: Manifest) -> None:
        places = {line["key"]: line["shard"] for line in read_quarantine(manifest.root) if line["key"]}
        places |= {sample.key: sample.shard for sample in manifest.samples}
        self.loose = {place: key for key, place in places.items() if _is_video(place)}
        self.stems = {_stem(path): key for path, key in self.loose.items()}
        # in tars: key -> extension of the video; one in quarantine has none that is known
        self.packed = {key: "" for key, place in places.items() if not _is_video(place)}
        self.packed |= {s.key: s.video_extension.lower() for s in manifest.samples if s.key in self.packed}
        self.named: dict[str, str] = {}

    def find(self, path: str, where: str) -> str | None:
        """Key of a video, by its path or without its extension (a folder of its frames); None where there is none."""
        if path in self.loose:
            return self.loose[path]
        if not _is_video(path) and path in self.stems:
            return self.stems[path]
        key = key_of(Path(path if _is_video(path) else f"{path}.mp4"))
        known = self.packed.get(key)
        if known is None or path.startswith("/") or (known and _is_video(path) and _extension(path) != known):
            return None
        stem = _stem(path) if _is_video(path) else path
        if self.named.setdefault(key, stem) != stem:
            raise ValueError(f"{where}: {path!r} and {self.named[key]!r} would both be sample {key!r}; name one anew")
        return key


def _below(name: str, media_root: str | None) -> str:
    """The path below the media root."""
    path = name.removeprefix(media_root.rstrip("/") + "/") if media_root else name
    return PurePosixPath(path).as_posix()


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix[1:].lower()


def _is_video(path: str) -> bool:
    return _extension(path) in VIDEO_EXTENSIONS


def _stem(path: str) -> str:
    return PurePosixPath(path).with_suffix("").as_posix()
