"""What a rank asks the policy where a round ends: batch by batch, each on disk before the next one."""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lightning.pytorch import Trainer
from rich.progress import track

from lit_vpo.atomic import append_line, read_whole_lines, write_lines

Row: TypeAlias = dict[str, Any]


class RoundSampling:
    """One rank's part of a round's sampling, in `<default_root_dir>/rounds/<round>/<name>.<rank>-<world>.jsonl`.

    A run that was killed goes on with the first batch that is not there whole. Rows of another policy, or of other
    settings, are asked for anew.

    Args:
        trainer: Of the run; its data module is a `HasCandidates`.
        module: The policy.
        round_index: Rounds that have ended.
    """

    def __init__(self, trainer: Trainer, module: Any, round_index: int) -> None:
        self.trainer, self.module, self.round_index = trainer, module, round_index
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.rank, self.world = trainer.global_rank, trainer.world_size
        self.tokens = 0  # that this life of the run has drawn
        self.begun = time.monotonic()

    @property
    def folder(self) -> Path:
        """Of the round's files."""
        return self.folder_of(self.round_index)

    def folder_of(self, round_index: int) -> Path:
        """Of any round's files."""
        return Path(self.trainer.default_root_dir) / "rounds" / str(round_index)

    def candidates(self, num: int, temperature: float, top_p: float) -> list[Row]:
        """Answers to the round's prompts.

        Args:
            num: To each prompt.
            temperature: Of the sampling.
            top_p: Of the sampling.
        """

        def batches(done: Collection[str]) -> Any:
            return self.data.candidate_loader(self.round_index, done, self.rank, self.world)

        def answer(batch: Any) -> list[Row]:
            rows: list[Row] = self.module.candidates(batch, num, temperature, top_p)
            return rows

        sampling = {"num_candidates": num, "temperature": temperature, "top_p": top_p}
        return self._ask("candidates", batches, answer, {"sampling": sampling}, num)

    def answers(self, name: str, prompts: Sequence[Row], **options: Any) -> list[Row]:
        """The likeliest answers to further prompts about the round's videos, or the scores of questions' options.

        Args:
            name: Of the file.
            prompts: Overlay rows with ids; an answer that is there counts if its prompt is still the same.
            options: Of the data module's `prompt_loader`.
        """
        wanted = {row["id"]: row["prompt"] for row in prompts}

        def batches(done: Collection[str]) -> Any:
            return self.data.prompt_loader(prompts, done, **options)

        def answer(batch: Any) -> list[Row]:
            scores = options.get("questions")
            rows: list[Row] = self.module.choices(batch) if scores else self.module.candidates(batch, 1, None, 1.0)
            return rows

        stamp = {"scored": bool(options.get("questions"))}
        return self._ask(name, batches, answer, stamp, keep=lambda row: wanted.get(row["id"]) == row["prompt"])

    def gathered(self, name: str) -> list[Row]:
        """The rows of all ranks, sorted by id; waits for them."""
        self.trainer.strategy.barrier(name)
        rows = [row for rank in range(self.world) for row in _read(self.file(name, rank))]
        return sorted(rows, key=lambda row: str(row["id"]))

    def write(self, name: str, rows: Iterable[Row]) -> None:
        """This rank's rows of a file that is made in one step."""
        write_lines(self.file(name, self.rank), map(json.dumps, rows))

    def file(self, name: str, rank: int) -> Path:
        """Where a rank's rows lie."""
        return self.folder / f"{name}.{rank}-{self.world}.jsonl"

    def _ask(
        self,
        name: str,
        batches: Callable[[Collection[str]], Any],
        answer: Callable[[Any], list[Row]],
        stamp: Row,
        num: int = 1,
        keep: Callable[[Row], bool] = lambda row: True,
    ) -> list[Row]:
        """Answers by `num` to a prompt, those of an earlier life of the run among them if they bear the same stamp."""
        path, stamp = self.file(name, self.rank), stamp | {"model": self.module.policy_identity}
        known = [row for row in _read(path) if all(row.get(key) == stamp[key] for key in stamp) and keep(row)]
        write_lines(path, map(json.dumps, known))
        rows = {row["id"]: row for row in known}
        counts = Counter(str(row.get("prompt_id", row["id"])) for row in known)
        loader = batches({prompt for prompt, count in counts.items() if count == num})
        for batch in track(loader, f"round {self.round_index}: {name}", disable=self.rank > 0):
            new = [row | stamp for row in answer(self.module.transfer_batch_to_device(batch, self.module.device, 0))]
            append_line(path, "\n".join(map(json.dumps, new)))
            rows |= {row["id"]: row for row in new}
            self._count(new)
        return list(rows.values())

    def _count(self, rows: list[Row]) -> None:
        drawn = [row["response"] for row in rows if not row.get("scored")]
        self.tokens += sum(map(len, self.module.processor.tokenizer(drawn)["input_ids"])) if drawn else 0


def _read(path: Path) -> list[Row]:
    """Rows of a file; of one that a kill had cut and that was asked for again, the last."""
    rows = map(json.loads, read_whole_lines(path))
    return list({row["id"]: row for row in rows}.values())
