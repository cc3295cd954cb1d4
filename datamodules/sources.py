"""Where the rows of each stage come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .manifest import shard_sizes
from .mix import OverlayShare
from .stores import ColdStore, Store

# the sources of each stage of Lightning; training needs `train`, every other stage one of its own
STAGES = {
    "fit": ("train", "val", "val_prompts", "val_questions"),
    "validate": ("val", "val_prompts", "val_questions"),
    "test": ("test", "test_prompts", "test_questions"),
    "predict": ("predict", "predict_questions"),
}


@dataclass(frozen=True)
class Source:
    """Where records come from.

    Attributes:
        shards: Folder with a manifest (shards, or loose videos indexed where they lie).
        overlay: JSONL of records keyed by sample; null takes each sample's own json. Several are a comma list, a glob,
            or a list of ``{path, weight}``: an epoch shows the part ``weight`` of that overlay's rows.
        limit: Keep only the first rows.
        annotations: Public annotation files in place of an overlay (a file, a comma list or a glob); the videos that
            they name are looked up below ``media_root``.
        store: Where the shards' bytes lie if not in the folder, which then holds the manifest alone; null is the
            folder.

    """

    shards: str
    overlay: str | list[OverlayShare] | None = None
    limit: int | None = None
    annotations: str | None = None
    store: Store | None = None

    def __post_init__(self) -> None:
        if self.overlay is not None and self.annotations is not None:
            raise ValueError(
                "overlay and annotations exclude each other; pack the annotations, or leave the overlay out"
            )


def check_sources(sources: dict[str, Source | None], stage: str) -> None:
    """Refuse a stage without sources of its own, or with two for one file; folders not there; caches too small.

    Raises:
        ValueError: It names the option.

    """
    needed = ["train"] if stage == "fit" else list(sources)
    if all(sources[name] is None for name in needed):
        raise ValueError(f"{stage} needs {_options(needed)}; give it as {needed[0]}: {{shards: FOLDER}}")
    if stage == "predict" and None not in sources.values():
        raise ValueError(f"predict answers prompts or scores questions: leave out {_options(sources)}")
    for name, source in sources.items():
        if source is not None and not Path(source.shards).is_dir():
            raise ValueError(
                f"data.{name}.shards: {source.shards} is not a folder; "
                "give the folder of the shards, or make them with: python -m lit_vpo data pack"
            )
        if source is not None and isinstance(source.store, ColdStore):
            source.store.check_sizes(shard_sizes(source.shards))


def _options(names: Iterable[str]) -> str:
    return " or ".join(f"data.{name}" for name in names)
