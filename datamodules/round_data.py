"""Data for training in rounds: pairs that are replaced where a round ends, and the prompts that new ones come from."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from .loader import ShardLoader
from .mix import write_part
from .overlay import Overlay
from .preference import PreferenceDataModule
from .reader import RecordReader
from .rounds import RoundLoader
from .sources import Source, check_sources


class RoundPreferenceDataModule(PreferenceDataModule):
    """Pairs for the first round (``train``), and prompts (``candidates``) whose sampled answers make the later ones'.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        candidates: Prompts to sample answers to, with what the judge needs (events, ground truth).
        prompts_per_round: So many of them for each round, the next ones each time; null takes all.
        **kwargs: The other arguments of :class:`PreferenceDataModule`.

    Raises:
        ValueError: As :class:`PreferenceDataModule`, or fewer than one prompt per round.

    """

    # the command line follows **kwargs to the base's arguments and shows them all
    def __init__(
        self, model: str, candidates: Source | None = None, prompts_per_round: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, **kwargs)
        if prompts_per_round is not None and prompts_per_round < 1:
            raise ValueError(f"prompts_per_round must be >= 1 or null, got {prompts_per_round}")
        self.candidates, self.prompts_per_round = candidates, prompts_per_round
        self.round_loader: RoundLoader | None = None

    @property
    def train_loader(self) -> Any:
        """The loader whose position a checkpoint keeps; None before training."""
        return self.round_loader

    def train_dataloader(self) -> Any:
        """The training loader; it holds its round and its position."""
        if self.round_loader is None:
            self.round_loader = RoundLoader(self._open)
        if self._resume is not None:
            self.round_loader.load_state_dict(self._resume)
            self._resume = None
        return self.round_loader

    def check_candidates(self) -> None:
        """Refuse to sample without prompts.

        Raises:
            ValueError: There are none, or their folder is not there.

        """
        check_sources({"candidates": self.candidates}, "resampling")

    def candidate_loader(self, round_index: int, done: Collection[str] = (), rank: int = 0, world: int = 1) -> Any:
        """Prompts whose answers make the pairs of a round, in batches that do not depend on what was done before.

        Args:
            round_index: Rounds that have ended, 1 or more.
            done: Ids of prompts that are answered already; a batch all of which is done is left out.
            rank: This process; it takes batches ``rank``, ``rank + world``, ...
            world: Processes.

        """
        assert self.candidates is not None
        reader, _ = self._read(self.candidates)
        rows = reader.rows
        if self.prompts_per_round is not None:
            first = (round_index - 1) * self.prompts_per_round
            rows = [rows[number % len(rows)] for number in range(first, first + min(self.prompts_per_round, len(rows)))]
        size = self.eval_batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)][rank::world]
        # a batch is answered whole or not at all: what is sampled together never changes
        kept = [row for batch in batches if not all(row["id"] in done for row in batch) for row in batch]
        if not kept:
            return []
        subset = RecordReader(reader.manifest, Overlay(tuple(kept)), None, self.candidates.store)
        return self._over(subset, None, self._prompts(), evaluation=True)

    def write_pairs(self, path: str, pairs: list[dict[str, Any]], rank: int, world: int) -> str:
        """Write a rank's pairs as (a part of) an overlay; returns the name of the whole."""
        write_part(path, pairs, rank, world)
        return path

    def begin_round(self, overlay: str) -> None:
        """Train on another overlay from the next batch on."""
        assert self.round_loader is not None
        self.round_loader.switch(overlay)

    def _open(self, path: str | None) -> ShardLoader:
        source = self.sources["train"]
        if source is None:
            raise ValueError("data.train is not set; give it as train: {shards: FOLDER, overlay: PAIRS.jsonl}")
        source = source if path is None else replace(source, overlay=path, annotations=None, limit=None)
        self.loaders["train"] = self._make_loader(source, self.train_collator(), evaluation=False)
        return self.loaders["train"]
