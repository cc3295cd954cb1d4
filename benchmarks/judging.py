"""How well a model judges its own answers, by the description that stands beside them.

python benchmarks/judging.py motion_world_judge --shards runs/judge/test
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track
from torch import Tensor

from lit_vpo.datamodules import InstructionDataModule, write_overlay
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.motion_world import score_caption, true_caption
from lit_vpo.datamodules.motion_world.scene import Scene, scene_of
from lit_vpo.datamodules.motion_world.tasks import MIXES, base_record, rows
from lit_vpo.datamodules.sources import Source
from lit_vpo.metrics import verbosity_metrics
from lit_vpo.metrics.answers import is_question
from lit_vpo.metrics.bootstrap import bootstrap_ratio, paired_bootstrap, per_clip
from lit_vpo.modules import SFTModule
from lit_vpo.modules.generation import Decoding
from lit_vpo.preferences.agreement import agreement, exact_choices
from lit_vpo.preferences.comparisons import comparisons, questions, read_replies, verdict_rows
from lit_vpo.preferences.contexts import (
    SOURCES,
    JudgeContexts,
    RetrospectionPrompts,
    context_prompts,
    context_rows,
)

ISR_DPO = Path(__file__).parents[1] / "experiments/motion_world/isr_dpo/dpo.yaml"
GREEDY, SAMPLED = Decoding(192), Decoding(96, temperature=1.0, top_p=0.95)
Row = dict[str, Any]
KINDS: dict[str, Callable[[Row], bool]] = {"captions": lambda row: not is_question(row), "questions": is_question}
COLUMNS = (
    "right [95 %]",
    "against none",
    "orders agree",
    "right of those",
    "kappa",
    "pairs",
    "first place",
    "longer wins",
)


class Policy:
    """A model that answers prompts about the clips of a folder, in the wordings of the experiment.

    Args:
        model: Name or path.
        shards: The clips.
    """

    def __init__(self, model: str, shards: str) -> None:
        self.model, self.shards = model, shards
        self.module = SFTModule(model, tuning="language_model")
        self.module.configure_model()
        callbacks = yaml.safe_load(ISR_DPO.read_text(encoding="utf-8"))["trainer"]["callbacks"]
        self.prompts = RetrospectionPrompts(**callbacks[-1]["init_args"]["prompts"])

    def answer(self, prompts: Sequence[Row], told: str, decoding: Decoding = GREEDY, num: int = 1) -> list[Row]:
        """`num` answers to each prompt."""
        batches = track(self._batches(prompts), told)
        return [row for batch in batches for row in self.module.generations(batch, num, decoding)]

    def choose(self, asked: Sequence[Row], told: str) -> list[Row]:
        """The scores of the options of each question."""
        batches = track(self._batches(asked, scored=True), told)
        return [row for batch in batches for row in self.module.choices(batch)]

    def _batches(self, prompts: Sequence[Row], scored: bool = False) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:
            write_overlay(f"{folder}/rows.jsonl", prompts)
            source = Source(self.shards, f"{folder}/rows.jsonl")
            sources = (None, source) if scored else (source, None)
            data = InstructionDataModule(self.model, predict=sources[0], predict_questions=sources[1], batch_size=64)
            return list(data.predict_dataloader())

    def describe(self, scenes: Sequence[Scene], previous: dict[str, Row]) -> dict[str, Row]:
        """The model's next description of each clip."""
        asked = context_prompts([scene.key for scene in scenes], previous, self.prompts, "own")
        return context_rows(self.answer(asked, "descriptions"), 1)


def measure(model: str, shards: str, limit: int | None) -> Iterator[tuple[str, list[Row]]]:
    """Verdicts on two samples to a caption prompt and to a question of each clip, by every source of contexts."""
    policy = Policy(model, shards)
    scenes = [scene_of(sample.key) for sample in Manifest.load(shards).samples][:limit]
    prompts = [base_record(scene) for scene in scenes]
    prompts += [row for scene in scenes for row in rows(scene, MIXES["questions"], 1, "questions")]
    candidates = policy.answer(prompts, "answers", SAMPLED, 2)
    first = policy.describe(scenes, {})
    second = policy.describe(scenes, first)
    for source in SOURCES:
        contexts = JudgeContexts(source, first if source == "stale" else second, true_caption)
        compared = comparisons(candidates, contexts, 1)
        asked = questions(compared, policy.prompts)
        replies = policy.choose(asked, f"verdicts, context {source}")
        yield (
            source,
            verdict_rows(compared, read_replies(replies, asked, policy.prompts), {"judge": "self", "context": source}),
        )


def table(verdicts: dict[str, list[Row]]) -> Iterator[str]:
    """A line for each kind of answers and each source of descriptions."""
    yield f"| answers | description | {' | '.join(COLUMNS)} |"
    yield f"| --- | --- | {' | '.join('---:' for _ in COLUMNS)} |"
    for name, chosen in KINDS.items():
        groups = {source: [row for row in judged if chosen(row)] for source, judged in verdicts.items()}
        for source, judged in groups.items():
            yield f"| {name} | {source} | {line(judged, groups['none'])} |"


def line(judged: Sequence[Row], blind: Sequence[Row]) -> str:
    """Agreement with the exact judge, its difference from that without a description, and how steady it is."""
    right = bootstrap_ratio(*both_orders(judged), seed=0)
    gain = paired_bootstrap(both_orders(blind), both_orders(judged), seed=0)
    found, steady = agreement(exact_choices(judged, score_caption)), verbosity_metrics(judged)
    cells = [f"{right.estimate:.1%} [{100 * right.low:.1f}, {100 * right.high:.1f}]"]
    cells += [f"{100 * gain.estimate:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"]
    cells += [f"{steady['order_consistency']:.1%}", f"{found.accuracy.estimate:.1%}", f"{found.kappa:.2f}"]
    cells += [str(found.num_pairs - found.num_tied), f"{steady['first_place']:.1%}", f"{steady['longer_wins']:.1%}"]
    return " | ".join(cells)


def both_orders(judged: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Right verdicts and verdicts of each clip, every order one verdict, of pairs whose answers err differently."""
    orders = [row | {"choice": choice} for row in judged for choice in row["choices"] if choice is not None]
    told = [each for each in exact_choices(orders, score_caption) if each.other]
    return per_clip([each.key for each in told], [(float(each.judge == each.other), 1.0) for each in told])


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--shards", required=True, help="clips of MotionWorld that the model was not trained on")
    parser.add_argument("--limit", type=int, help="the first clips alone")
    parser.add_argument("--out", help="also write every verdict as JSON lines, for `agreement`")
    args = parser.parse_args()
    verdicts = dict(measure(args.model, args.shards, args.limit))
    if args.out:
        lines = [json.dumps(row) for judged in verdicts.values() for row in judged]
        Path(args.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(table(verdicts)))


if __name__ == "__main__":
    main()
