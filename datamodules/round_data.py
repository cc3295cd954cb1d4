"""Data for training in rounds: pairs that are replaced where a round ends, and the prompts that new ones come from."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .loader import ShardLoader
from .mix import Mix, read_parts, write_part
from .order import interleave
from .overlay import Overlay, write_overlay
from .reader import RecordReader
from .round_questions import QuestionMix, check_question_pairs
from .rounds import SwitchedDataModule
from .sources import Source, check_sources


class RoundPreferenceDataModule(SwitchedDataModule):
    """Pairs for the first round (``train``), and prompts (``candidates``) whose sampled answers make the later ones'.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        candidates: Prompts to sample answers to, with what the judge needs (events, ground truth). Of several overlays
            (whole videos, intervals) every round takes prompts in the ratio of their rows times their weights.
        prompts_per_round: So many of them for each round, the next ones each time; null takes all (of an overlay with a
            weight, that share).
        questions: Pairs of answers to questions that are mixed into those of later rounds; null mixes none.
        **kwargs: The other arguments of :class:`PreferenceDataModule`.

    Raises:
        ValueError: As :class:`PreferenceDataModule`, or fewer than one prompt per round.

    """

    # the command line follows **kwargs to the base's arguments and shows them all
    def __init__(
        self,
        model: str,
        candidates: Source | None = None,
        prompts_per_round: int | None = None,
        questions: QuestionMix | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        if prompts_per_round is not None and prompts_per_round < 1:
            raise ValueError(f"prompts_per_round must be >= 1 or null, got {prompts_per_round}")
        self.candidates, self.prompts_per_round, self.questions = candidates, prompts_per_round, questions

    def check_candidates(self) -> None:
        """Refuse to sample without prompts, or to mix in what makes no pairs.

        Raises:
            ValueError: There are none, or their folder is not there; or what ``questions`` names cannot be trained on.

        """
        check_sources({"candidates": self.candidates}, "resampling")
        if self.questions is not None:
            check_question_pairs(self._question_rows(self.questions), self.with_ground_truth, self.num_negatives)

    def candidate_loader(self, round_index: int, done: Collection[str] = (), rank: int = 0, world: int = 1) -> Any:
        """Prompts whose answers make the pairs of a round, in batches that do not depend on what was done before.

        Args:
            round_index: Rounds that have ended; 0 before the first.
            done: Ids of prompts that are answered already; a batch all of which is done is left out.
            rank: This process; it takes batches ``rank``, ``rank + world``, ...
            world: Processes.

        """
        assert self.candidates is not None
        reader, mix = self._read(self.candidates)
        return self._asking(reader, self._prompts_of(reader, mix, round_index), done, rank, world)

    def prompt_loader(
        self,
        rows: Sequence[dict[str, Any]],
        done: Collection[str] = (),
        rank: int = 0,
        world: int = 1,
        questions: bool = False,
        together: int = 1,
    ) -> Any:
        """Further prompts about the candidates' videos, in batches as those of :meth:`candidate_loader`.

        Args:
            rows: Overlay rows with ids.
            done: See there.
            rank: See there.
            world: See there.
            questions: Score their ``meta.options`` in place of answering them.
            together: Rows that follow each other and stand in one batch, where they share their video.

        """
        assert self.candidates is not None
        reader, _ = self._read(replace(self.candidates, overlay=None, annotations=None, limit=None))
        return self._asking(reader, rows, done, rank, world, questions, together)

    def _asking(
        self,
        reader: RecordReader,
        rows: Sequence[dict[str, Any]],
        done: Collection[str],
        rank: int,
        world: int,
        questions: bool = False,
        together: int = 1,
    ) -> Any:
        """A loader of a rank's share of rows, on the videos of a reader."""
        assert self.candidates is not None
        size = -(-self.eval_batch_size // together) * together
        batches = [rows[start : start + size] for start in range(0, len(rows), size)][rank::world]
        # a batch is answered whole or not at all: what is sampled together never changes
        kept = [row for batch in batches if not all(row["id"] in done for row in batch) for row in batch]
        if not kept:
            return []
        subset = RecordReader(reader.manifest, Overlay(tuple(kept)), None, self.candidates.store)
        return self._over(subset, None, self._collator("question" if questions else "prompt"), True, size)

    def _prompts_of(self, reader: RecordReader, mix: Mix | None, round_index: int) -> list[dict[str, Any]]:
        """The rows that a round asks about, the overlays' in turn."""
        origins = [0] * len(reader) if mix is None else mix.origins(reader).tolist()
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row, origin in zip(reader.rows, origins, strict=True):
            found[origin].append(row)
        weights = [mix.weights[origin] if mix is not None and mix.weights else 1.0 for origin in found]
        lists = list(found.values())
        drawn = interleave([len(rows) for rows in lists], weights, round_index - 1, self.prompts_per_round)
        return [lists[number][place] for number, place in drawn]

    def write_pairs(self, path: str, pairs: list[dict[str, Any]], rank: int, world: int) -> str:
        """Write a rank's pairs as (a part of) an overlay; returns the name of the whole."""
        write_part(path, pairs, rank, world)
        return path

    def begin_round(self, overlay: str, round_index: int) -> None:
        """Train on the pairs of a round, and on its share of questions, from the next batch on.

        Where questions come in, both stand in ``mixed.jsonl`` beside the pairs, which all ranks must have written.

        Args:
            overlay: The round's pairs.
            round_index: Rounds that have ended.

        """
        assert self.round_loader is not None
        if self.questions is not None:
            pairs, rows = read_parts(overlay).rows, self._question_rows(self.questions)
            if drawn := self.questions.draw(rows, len(pairs), self.seed, round_index):
                overlay = str(Path(overlay).with_name("mixed.jsonl"))
                write_overlay(overlay, [*pairs, *drawn])  # every rank the same file, in one step
        self.round_loader.switch(overlay)

    def _question_rows(self, questions: QuestionMix) -> list[dict[str, Any]]:
        return self._read(self._train_source(questions.overlay))[0].rows

    def _train_source(self, overlay: str | None) -> Source:
        """The training videos, under another overlay where one is given."""
        source = self.sources["train"]
        if source is None:
            raise ValueError("data.train is not set; give it as train: {shards: FOLDER, overlay: PAIRS.jsonl}")
        return source if overlay is None else replace(source, overlay=overlay, annotations=None, limit=None)

    def _open(self, name: str | None) -> ShardLoader:
        self.loaders["train"] = self._make_loader(self._train_source(name), self.train_collator(), evaluation=False)
        return self.loaders["train"]
