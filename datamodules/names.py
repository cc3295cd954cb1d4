"""From the name that an annotation gives a media file to the file in a folder; names are looked up, never opened."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from .quarantine import BadSample


class MediaNames:
    """Look files up by the names that annotations give them.

    Args:
        files: Paths of the files below their folder.
        rename: (old, new): names that begin with old begin with new instead; ("/data/videos/", "") maps the media root
            of the annotations' author to the folder.

    """

    def __init__(self, files: Iterable[str], rename: tuple[str, str] | None = None) -> None:
        self.files = set(files)
        self.old, self.new = rename or ("", "")
        self.by_base: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for name in sorted(self.files):
            self.by_base.setdefault(PurePosixPath(name).name, []).append(name)
            self.by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)

    def renamed(self, name: str) -> str:
        """A name under the folder's own root."""
        return self.new + name.removeprefix(self.old) if name.startswith(self.old) else name

    def find(self, name: str) -> str:
        """Path below the folder, by the whole path or by the base name where that is the only one.

        Raises:
            BadSample: No such file, or several with this base name.

        """
        name = self.renamed(name).removeprefix("./")
        found = [name] if name in self.files else self.by_base.get(PurePosixPath(name).name, [])
        return _only(name, found, "name it by its path below the folder")

    def find_folder(self, name: str) -> str:
        """Path of the video that a folder of its frames was taken from: the same path with an extension.

        Raises:
            BadSample: No such video, or several.

        """
        name = self.renamed(name).removeprefix("./").rstrip("/")
        return _only(name, self.by_stem.get(name, []), "keep one of them")


def _only(name: str, found: list[str], advice: str) -> str:
    if not found:
        raise BadSample(f"no video {name!r} in the folder (a difference of names is named with rename)")
    if len(found) > 1:
        raise BadSample(f"{name!r} may be any of {', '.join(found)}; {advice}")
    return found[0]
