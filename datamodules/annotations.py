"""Public annotation files used where they lie, in place of an overlay: their names of videos become keys."""

from pathlib import Path

from .manifest import Manifest, key_of
from .overlay import Overlay
from .quarantine import read_quarantine
from .schemas import read_annotations


def annotation_overlay(files: str, manifest: Manifest, media_root: str | None = None) -> Overlay:
    """Rows of annotation files, joined to the samples of a manifest by the paths that they name.

    Args:
        files: As :func:`lit_vpo.datamodules.schemas.find_files` takes them.
        manifest: Of the videos; a sample's key is its path below the folder, as packing and indexing make it.
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
    known = manifest.by_key.keys() | {line["key"] for line in read_quarantine(manifest.root)}
    rows = []
    for record, place in zip(read.records, read.places, strict=True):
        media = record.get("media") or {}
        name = media.get("video") or media.get("frames_dir") or ""
        key = key_of(_below(name, media_root))
        if key not in known:
            raise ValueError(
                f"{place}, field 'media': {name!r} is no video of {manifest.root}; if the paths begin with another "
                "folder, name it as data.media_root"
            )
        rows.append({"key": key, **record})
    return Overlay(tuple(rows))


def _below(name: str, media_root: str | None) -> Path:
    """The name below the media root; a folder of frames gets an extension to lose."""
    path = name.removeprefix(media_root.rstrip("/") + "/") if media_root else name
    path = path.removeprefix("./").rstrip("/")
    return Path(path if Path(path).suffix else f"{path}.mp4") if path else Path()
