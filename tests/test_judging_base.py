"""The base that judges goes by the video and by what it reads, and the benchmark's table by hand."""

import pathlib
import sys

import pytest

from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.motion_world import true_caption
from lit_vpo.datamodules.motion_world.scene import scene_of
from lit_vpo.datamodules.motion_world.tasks import base_record
from lit_vpo.preferences.comparisons import comparisons, questions, read_replies, verdict_rows
from lit_vpo.preferences.contexts import JudgeContexts

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

from judging import Policy, line, table

NAME = "motion_world_judge"


def asked_about(world):
    """Of each clip the true answer and, as the second one, that of the next clip."""
    records = [base_record(scene_of(sample.key)) for sample in Manifest.load(world).samples]
    captions = [true_caption(record) for record in records]
    return [
        record | {"prompt_id": record["id"], "candidate": number, "response": text, "finished": True}
        for record, *answers in zip(records, captions, captions[1:] + captions[:1], strict=True)
        for number, text in enumerate(answers)
    ]


@pytest.fixture(scope="module")
def verdicts(world):
    """Of the shipped base, by no description, by the true one and by that of the next clip."""
    policy, candidates = Policy(NAME, str(world)), asked_about(world)
    true = {row["key"]: {"context": row["response"]} for row in candidates if row["candidate"] == 0}
    judged = {}
    for source in ("none", "own", "other"):
        compared = comparisons(candidates, JudgeContexts(source, true, true_caption), 1)
        asked = questions(compared, policy.prompts)
        judged[source] = verdict_rows(compared, read_replies(policy.choose(asked, source), asked, policy.prompts), {})
    return judged


def margins(rows):
    """How much likelier the true answer is, in both orders of each pair."""
    return [first - second for row in rows for first, second in row["scores"]]


def test_its_verdict_goes_by_the_video(verdicts):
    assert sum(margin > 0 for margin in margins(verdicts["none"])) >= 14  # of 16; by chance in one of 480 cases


def test_its_verdict_goes_by_what_it_reads(verdicts):
    read, misled = margins(verdicts["own"]), margins(verdicts["other"])
    assert sum(a > b for a, b in zip(read, misled, strict=True)) >= 14


def test_a_line_of_the_table_by_hand(make_verdict):
    events = [{"text": "the red square moves left", "start_s": 0, "end_s": 1, "modality": "visual"}]
    right, wrong = "The red square moves left.", "The blue circle grows."
    told = {"events": events, "ground_truth": right}
    rows = [
        make_verdict("a", [right, wrong], (1, 1), **told),
        make_verdict("b", [wrong, right], (2, 2), **told),
        make_verdict("c", [right, wrong], (2, 2), **told),
        make_verdict("d", [right, wrong], (1, 2), **told),
    ]
    blind = [*rows[:2], make_verdict("c", [right, wrong], (1, 1), **told), rows[3]]
    # 4 + 1 of 8 verdicts are right, 6 + 1 of 8 blindly; kappa of (1, 1), (2, 2), (2, 1): (2/3 - 4/9) / (1 - 4/9)
    right_ones, against, *others = line(rows, blind).split(" | ")
    assert right_ones.startswith("62.5% [") and against.startswith("-25.0 [")
    assert others == ["75.0%", "66.7%", "0.40", "3", "62.5%", "66.7%"]  # 5 of 8 name the first place
    assert line(rows, rows).split(" | ")[1] == "+0.0 [+0.0, +0.0]"
    asked = {"ground_truth": "yes", "meta": {"options": ["yes", "no"]}}
    judged = [*rows, make_verdict("e", ["yes", "no"], (2, 2), **asked)]
    lines = list(table({"own": judged, "none": judged}))
    assert [each.split(" | ")[:2] for each in lines[2:]] == [
        [f"| {kind}", source] for kind in ("captions", "questions") for source in ("own", "none")
    ]
    assert lines[4].split(" | ")[2] == "0.0% [0.0, 0.0]"
