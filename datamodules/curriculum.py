"""Data of a curriculum: the training pairs in stages, one difficulty after the other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, cast

from lit_vpo.batch import PreferenceBatch
from lit_vpo.metrics.difficulty import Group, group_of

from .loader import ShardLoader
from .order import permutation
from .overlay import Overlay
from .reader import RecordReader
from .rounds import SwitchedDataModule

Row = dict[str, Any]


class CurriculumDataModule(SwitchedDataModule):
    """Pairs that name their divisor ``r``, as ``pairs build`` writes them (TEMPO, arXiv 2503.16929).

    The callback ``CurriculumScheduler`` says what the stages are and when each begins. Within a stage the order is a
    function of seed, stage and epoch; what a stage holds does not depend on ranks or workers.

    Args:
        model: Name or path whose processor makes the inputs; the CLI links it from the model.
        **kwargs: The other arguments of :class:`PreferenceDataModule`.

    Raises:
        ValueError: As :class:`PreferenceDataModule`; for training rows without ``r``, or overlays with weights.

    """

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self._stages: dict[str, ShardLoader] = {}

    def groups(self, source: Literal["train", "val"]) -> list[Group]:
        """The divisors and kinds of perturbation of a source's pairs; none where there is no source.

        Raises:
            ValueError: A training pair has no r.

        """
        if self.sources[source] is None:
            return []
        found = {group_of(row) for row in self._reader(source).rows}
        return sorted(group for group in found if group is not None)

    def plan_stages(self, divisors: Sequence[int], mixed: bool = False) -> list[int]:
        """Divide the training pairs into stages and stand before the first.

        Args:
            divisors: A stage for each, of its pairs, in this order.
            mixed: Stages as large, but of pairs of all these divisors in one drawn order, each pair in one stage.

        Returns:
            Batches of an epoch of each on this rank.

        Raises:
            ValueError: A stage has no pair.

        """
        reader = self._reader("train")
        stages = divided(reader.rows, divisors)
        if mixed:
            stages = shuffled_stages(stages, self.seed)
        collator = self.train_collator()
        self._stages = {
            name: self._over(self._part(reader, rows), None, collator, evaluation=False)
            for name, rows in stages.items()
        }
        self.loaders |= {f"train, {name}": loader for name, loader in self._stages.items()}
        self.round_loader = None
        return [len(loader) for loader in self._stages.values()]

    def begin_stage(self, stage: int) -> None:
        """Train on a stage (0-based) from the next batch on."""
        assert self.round_loader is not None
        self.round_loader.switch(list(self._stages)[stage])

    def held_out(self, r: int) -> Iterable[PreferenceBatch]:
        """Batches of the validation pairs of a divisor, all of them on every rank.

        Raises:
            ValueError: There are none.

        """
        reader = None if self.sources["val"] is None else self._reader("val")
        rows = [] if reader is None else [row for row in reader.rows if row.get("r") == r]
        if reader is None or not rows:
            raise ValueError(f"data.val has no pairs of r = {r}, which tell when the policy has learnt that difficulty")
        loader = self._over(self._part(reader, rows), None, self.train_collator(), evaluation=True)
        return cast(Iterable[PreferenceBatch], loader)

    def _train_rows(self) -> list[Row]:
        return [row for loader in self._stages.values() for row in loader.reader.rows]

    def _reader(self, name: Literal["train", "val"]) -> RecordReader:
        source = self.sources[name]
        assert source is not None
        reader, mix = self._read(source)
        if name == "train":
            if mix is not None and mix.weights:
                raise ValueError(
                    "a curriculum shows every pair of a stage; leave the weights of data.train.overlay out"
                )
            if without := next((row["id"] for row in reader.rows if row.get("r") is None), None):
                raise ValueError(f"data.train: row {without} has no r; a curriculum needs the divisor of every pair")
        return reader

    def _part(self, reader: RecordReader, rows: list[Row]) -> RecordReader:
        return RecordReader(reader.manifest, Overlay(tuple(rows)), None, reader.store)

    def _open(self, name: str | None) -> ShardLoader:
        if not self._stages:
            raise ValueError(
                "CurriculumDataModule trains on stages: add the CurriculumScheduler callback, or take "
                "PreferenceDataModule, which shows all pairs at once"
            )
        return next(iter(self._stages.values())) if name is None else self._stages[name]


def divided(rows: Sequence[Row], divisors: Sequence[int]) -> dict[str, list[Row]]:
    """The rows of each divisor, in the order of the divisors, by name of the stage.

    Raises:
        ValueError: A divisor without rows, or rows without a stage.

    """
    found = Counter(row["r"] for row in rows)
    there = ", ".join(f"{count} of r = {r}" for r, count in sorted(found.items(), reverse=True))
    for r in divisors:
        if not found[r]:
            raise ValueError(f"the stage of r = {r} is empty: data.train has {there}; leave {r} out of divisors")
    if left_out := found.keys() - set(divisors):
        names = ", ".join(f"r = {r}" for r in sorted(left_out, reverse=True))
        raise ValueError(f"pairs of {names} stand in no stage: data.train has {there}; name them in divisors")
    return {f"r = {r}": [row for row in rows if row["r"] == r] for r in divisors}


def shuffled_stages(stages: dict[str, list[Row]], seed: int) -> dict[str, list[Row]]:
    """Stages of the same sizes with all rows in one drawn order: a control, in which difficulty does not change."""
    rows = [row for stage in stages.values() for row in stage]
    drawn = [rows[n] for n in permutation(len(rows), seed, "curriculum")]
    ends = accumulate(map(len, stages.values()), initial=0)
    return {f"mixed, {number}": drawn[begin:end] for number, (begin, end) in enumerate(pairwise(ends), start=1)}
