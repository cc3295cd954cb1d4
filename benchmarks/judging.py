"""How well a model judges two answers by the likelihood of its verdict, by the description that stands beside them.

python benchmarks/judging.py motion_world_judge --shards runs/judge/test
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track

from lit_vpo.datamodules import InstructionDataModule, write_overlay
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.motion_world.judging import ASK, VERDICTS, error, judge_prompt, quotes, two_answers
from lit_vpo.datamodules.motion_world.scene import Scene, scene_of
from lit_vpo.datamodules.motion_world.tasks import base_record
from lit_vpo.datamodules.sources import Source
from lit_vpo.metrics.bootstrap import bootstrap_ratio
from lit_vpo.modules import SFTModule
from lit_vpo.modules.generation import Decoding

CONTEXTS = ("own", "true", "none", "other")
GREEDY, SAMPLED = Decoding(96), Decoding(96, temperature=1.0)


class Case(NamedTuple):
    """Two answers to a clip's caption prompt that do not err equally often, and a description to judge them by."""

    whose: str  # answers: the task's (imperfect viewers), or the model's own samples
    context: str
    key: str
    better: int  # 0 or 1
    question: str
    answers: tuple[str, str]
    description: str | None

    def row(self, order: int, bare: bool) -> dict[str, Any]:
        """The question to the judge, with the answers in their order (0) or in the other (1)."""
        answers = self.answers[::-1] if order else self.answers
        asked = (ASK,) if bare else ()
        options = list(VERDICTS) if bare else quotes(answers)
        return {
            "key": self.key,
            "prompt": judge_prompt(self.question, answers, self.description, *asked),
            "ground_truth": options[self.better != order],
            "meta": {"options": options},
        }


class Verdicts(NamedTuple):
    """What a case's two orders gave: likelihood of the better answer's verdict minus that of the other."""

    case: Case
    margins: tuple[float, float]

    @property
    def credit(self) -> float:
        """Share of the orders in which the better answer is chosen; a tie is half a choice."""
        return sum(0.5 + 0.5 * ((margin > 0) - (margin < 0)) for margin in self.margins) / 2

    @property
    def num_first(self) -> int:
        """In how many of the two orders the first place is chosen."""
        return sum((margin > 0) == (self.case.better == order) for order, margin in enumerate(self.margins))


@torch.no_grad()
def measure(model: str, shards: str, limit: int | None, bare: bool) -> list[Verdicts]:
    """Every case's verdicts: the model writes two samples and its description, then scores both verdicts."""
    module = SFTModule(model, tuning="language_model")
    module.configure_model()
    scenes = [scene_of(sample.key) for sample in Manifest.load(shards).samples][:limit]
    with tempfile.TemporaryDirectory() as folder:
        prompts = [base_record(scene) for scene in scenes]
        own = write(module, shards, prompts, GREEDY, Path(folder))
        samples = write(module, shards, prompts, SAMPLED, Path(folder), 2)
        cases = [case for scene in scenes for case in cases_of(scene, scenes, own, samples)]
        return list(judged(module, shards, cases, Path(folder), bare))


def rows_of(model: str, shards: str, rows: list[dict[str, Any]], folder: Path, kind: str) -> Any:
    """Batches of an overlay's rows, as `kind` of the data module."""
    write_overlay(folder / "rows.jsonl", rows)
    data = InstructionDataModule(model, **{kind: Source(shards, str(folder / "rows.jsonl"))}, batch_size=64)
    return data.predict_dataloader() if kind == "predict" else data.val_dataloader()[0]


def write(
    module: SFTModule, shards: str, prompts: list[dict[str, Any]], decoding: Decoding, folder: Path, num: int = 1
) -> dict[str, list[str]]:
    """The model's answers by clip."""
    answers: dict[str, list[str]] = {}
    for batch in track(rows_of(module.model, shards, prompts, folder, "predict"), "answers"):
        for row in module.generations(batch, num, decoding):
            answers.setdefault(row["key"], []).append(row["response"])
    return answers


def cases_of(
    scene: Scene, scenes: list[Scene], own: dict[str, list[str]], samples: dict[str, list[str]]
) -> Iterator[Case]:
    """The clip's pairs, each with every description; ties are left out."""
    rng = random.Random(f"benchmarks/judging/{scene.key}")
    question = base_record(scene)["prompt"]
    other = scenes[(scenes.index(scene) + 1) % len(scenes)].key
    contexts = {
        "own": own[scene.key][0],
        "true": base_record(scene)["ground_truth"],
        "none": None,
        "other": own[other][0],
    }
    for name, answers in (("task", two_answers(scene, rng)), ("samples", samples[scene.key])):
        errors = [error(scene, answer) for answer in answers]
        if errors[0] == errors[1]:
            continue
        for context, text in contexts.items():
            yield Case(name, context, scene.key, int(errors[0] > errors[1]), question, (answers[0], answers[1]), text)


def judged(module: SFTModule, shards: str, cases: list[Case], folder: Path, bare: bool) -> Iterator[Verdicts]:
    """Likelihood of both verdicts behind each prompt, as multiple-choice questions are scored."""
    rows = [case.row(order, bare) | {"id": f"{n}/{order}"} for n, case in enumerate(cases) for order in (0, 1)]
    margins: dict[str, float] = {}
    for batch in track(rows_of(module.model, shards, rows, folder, "val_questions"), "verdicts"):
        scores = module.logps(batch, module.encode(batch)).sums.view(-1, 2)
        right = batch["answer"].unsqueeze(1)
        differences = (scores.gather(1, right) - scores.gather(1, 1 - right)).flatten().tolist()
        margins |= {record["id"]: value for record, value in zip(batch["records"], differences, strict=True)}
    for number, case in enumerate(cases):
        yield Verdicts(case, (margins[f"{number}/0"], margins[f"{number}/1"]))


def table(verdicts: list[Verdicts]) -> Iterator[str]:
    """A line for each kind of answers and of description."""
    yield "| answers | description | accuracy [95 %] | consistent | accuracy of those | first place | pairs |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for whose in ("task", "samples"):
        for context in CONTEXTS:
            chosen = [v for v in verdicts if (v.case.whose, v.case.context) == (whose, context)]
            if chosen:
                yield f"| {whose} | {context} | {line(chosen)} |"


def line(verdicts: list[Verdicts]) -> str:
    """Accuracy over both orders, share of pairs with one verdict in both, theirs, share of verdicts for the first."""
    clips = sorted({v.case.key for v in verdicts})
    counts = torch.zeros(len(clips), 2)
    for v in verdicts:
        counts[clips.index(v.case.key)] += torch.tensor([v.credit, 1.0])
    interval = bootstrap_ratio(counts[:, 0], counts[:, 1], seed=0)
    consistent = [v.credit for v in verdicts if v.credit in (0, 1)]
    of_those = f"{sum(consistent) / len(consistent):.1%}" if consistent else "-"
    first = sum(v.num_first for v in verdicts) / (2 * len(verdicts))
    accuracy = f"{interval.estimate:.1%} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"{accuracy} | {len(consistent) / len(verdicts):.1%} | {of_those} | {first:.1%} | {len(verdicts)}"


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--shards", required=True, help="clips of MotionWorld that the model was not trained on")
    parser.add_argument("--limit", type=int, help="the first clips alone")
    parser.add_argument("--bare", action="store_true", help="verdicts that name the better answer without quoting it")
    parser.add_argument("--out", help="also write every case with its margins as JSON lines")
    args = parser.parse_args()
    verdicts = measure(args.model, args.shards, args.limit, args.bare)
    if args.out:
        lines = [json.dumps(v.case._asdict() | {"margins": v.margins}) for v in verdicts]
        Path(args.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(table(verdicts)))


if __name__ == "__main__":
    main()
