"""The base that judges goes by the video, and the benchmark's two orders by hand."""

import pathlib
import sys

import pytest
import torch

from lit_vpo.datamodules import InstructionDataModule, write_overlay
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.motion_world.language import caption
from lit_vpo.datamodules.motion_world.scene import scene_of
from lit_vpo.datamodules.sources import Source
from lit_vpo.modules import SFTModule

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

from judging import Case, Verdicts, line

NAME = "motion_world_judge"
TRUE, FALSE = "The red square moves left.", "The blue circle grows."


def case(key, better=0):
    return Case("task", "true", key, better, "What happens in the video?", (TRUE, FALSE), TRUE)


def test_both_orders_ask_for_the_same_answer():
    for better, text in ((0, TRUE), (1, FALSE)):
        first, second = (case("clip", better).row(order, bare=False) for order in (0, 1))
        assert [row["ground_truth"] for row in (first, second)] == [
            f"{text} My choice is Response {1 + better}.",
            f"{text} My choice is Response {2 - better}.",
        ]
        assert f"Response 1: {TRUE} Response 2: {FALSE}" in first["prompt"]
        assert f"Response 1: {FALSE} Response 2: {TRUE}" in second["prompt"]
    assert case("clip", 1).row(1, bare=True)["ground_truth"] == "My choice is Response 1."


@pytest.mark.parametrize(
    ("better", "margins", "credit", "num_first"),
    [
        (0, (2.0, 1.0), 1.0, 1),  # right in both orders: once the first, once the second
        (1, (2.0, 1.0), 1.0, 1),
        (0, (-2.0, -1.0), 0.0, 1),
        (0, (2.0, -1.0), 0.5, 2),  # always the first
        (1, (2.0, -1.0), 0.5, 0),  # always the second
        (1, (0.0, 1.0), 0.75, 2),  # a tie is half a choice
    ],
)
def test_verdicts_by_hand(better, margins, credit, num_first):
    verdicts = Verdicts(case("clip", better), margins)
    assert (verdicts.credit, verdicts.num_first) == (credit, num_first)


def test_a_line_of_the_table_by_hand():
    verdicts = [Verdicts(case(str(n)), margins) for n, margins in enumerate([(1, 1), (1, 1), (-1, -1), (1, -1)])]
    assert line(verdicts).split(" | ")[1:] == ["75.0%", "66.7%", "62.5%", "4"]
    assert line(verdicts).startswith("62.5% [")  # (1 + 1 + 0 + 0.5) / 4


def test_its_verdict_goes_by_the_video(world, tmp_path):
    judge = SFTModule(NAME, tuning="language_model")
    judge.configure_model()
    scenes = [scene_of(sample.key) for sample in Manifest.load(world).samples]
    captions = [caption(scene) for scene in scenes]
    rows = []
    for scene, true, false in zip(scenes, captions, captions[1:] + captions[:1], strict=True):
        each = Case("task", "none", scene.key, 0, "What happens in the video?", (true, false), None)
        rows += [each.row(order, bare=False) | {"id": f"{scene.key}/{order}"} for order in (0, 1)]
    write_overlay(tmp_path / "rows.jsonl", rows)
    data = InstructionDataModule(NAME, val_questions=Source(str(world), str(tmp_path / "rows.jsonl")), batch_size=16)
    (batch,) = data.val_dataloader()[0]
    with torch.no_grad():
        scores = judge.logps(batch, judge.encode(batch)).sums.view(-1, 2)
    right = (scores.argmax(1) == batch["answer"]).sum()
    assert len(rows) == 16 and right >= 14  # by chance in one of 480 cases
