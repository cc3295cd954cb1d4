"""Imperfect viewers, whose errors are known, and what should have been written; the older mixes stay as they were."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lit_vpo.datamodules.motion_world import language, noisy_caption, sample_scene, score_caption, tasks
from lit_vpo.datamodules.motion_world.judging import ASK_BETTER, error, judge_prompt
from lit_vpo.datamodules.motion_world.noise import Noise
from lit_vpo.datamodules.motion_world.slips import Slips, misread
from lit_vpo.preferences.contexts import RetrospectionPrompts

SCENES = [sample_scene("train", 0, index) for index in range(200)]
OLDER = ["eyes", "habits", "pairs", "captions", "questions", "order_questions", "intervals", "paragraphs"]
OLDER += ["refinements", "judgements", "second_clips"]


def counts(slips):
    """Errors of true captions of what is seen, over all scenes."""
    total = Counter()
    for scene in SCENES:
        rng = random.Random(scene.key)
        seen = noisy_caption(misread(scene, slips, rng), Noise(), rng)
        count = score_caption(seen, tasks.base_record(scene))
        total += Counter(
            missed=count.missed, wrong=count.incorrect + count.hallucinated, swapped=count.discordant_pairs
        )
    return total


def test_who_makes_no_slip_sees_the_scene():
    for scene in SCENES:
        assert misread(scene, Slips(), random.Random(0)).of() == scene.of()
    assert not counts(Slips())


def test_each_slip_has_its_own_errors_in_the_given_share():
    num_events = sum(len(scene.of()) for scene in SCENES)
    missed, wrong, invented = counts(Slips(missed=0.3)), counts(Slips(wrong=0.3)), counts(Slips(invented=0.3))
    assert missed["missed"] == pytest.approx(0.3 * num_events, rel=0.15) and not missed["wrong"] + missed["swapped"]
    # a wrong event is missing too, unless its actor's wrong act stands for it
    assert wrong["wrong"] == pytest.approx(0.3 * num_events, rel=0.15) and 0 < wrong["missed"] < wrong["wrong"]
    # one in three scenes and each time one more in three: 0.3 / 0.7 per scene; a few happen to be true
    assert invented["wrong"] == pytest.approx(0.3 / 0.7 * len(SCENES), rel=0.2) and not invented["missed"]


def test_what_is_taken_for_another_thing_is_not_one_thing_more():
    for scene in SCENES:
        seen = misread(scene, Slips(wrong=0.9, invented=0.5), random.Random(scene.key))
        assert seen.actors[: len(scene.actors)] == scene.actors and language.details(seen) == language.details(scene)


@pytest.mark.parametrize(
    ("slips", "message"),
    [
        ({"missed": -0.1}, r"slips.missed is a probability in \[0, 1\)"),
        ({"invented": 1.0}, r"slips.invented is a probability in \[0, 1\)"),  # it would never end
        ({"missed": 0.6, "wrong": 0.6}, r"slips.missed \+ slips.wrong must be <= 1"),
    ],
)
def test_slips_are_probabilities(slips, message):
    with pytest.raises(ValueError, match=message):
        Slips(**slips)


def answers_of(row):
    """The two answers that a row asks about."""
    return row["prompt"].split(" Response 1: ")[1].removesuffix(f" {ASK_BETTER}").split(" Response 2: ")


def description_of(row):
    return row["prompt"].split("Video description: ")[1].split(" Question: ")[0]


def test_the_better_response_to_a_caption_prompt_is_the_truth():
    kinds, repeats = Counter(), 0
    for scene in SCENES:
        for row in tasks.rows(scene, tasks.Mix({"judge_captions": 1}), 2):
            first, second = answers_of(row)
            assert error(scene, first) != error(scene, second)
            counts = score_caption(row["ground_truth"], tasks.base_record(scene))
            assert not counts.missed + counts.incorrect + counts.hallucinated + counts.discordant_pairs
            repeats += counts.repeated_sentences > 0
            kinds[row["meta"]["kind"].rsplit(" ")[-1]] += 1
            if row["meta"]["kind"].endswith("true"):
                assert error(scene, description_of(row)) == 0
    assert {kind: round(8 * number / 400) for kind, number in kinds.items()} == {"none": 2, "true": 3, "own": 3}
    assert 0 < repeats < 60  # of 400: short captions a fifth, others a twentieth


def test_the_better_answer_to_a_question_is_right_and_wrong_ones_may_mix_options():
    places, mixed = Counter(), 0
    for scene in SCENES:
        for row in tasks.rows(scene, tasks.Mix({"judge_answers": 1}), 2):
            options = row["prompt"].split("Options: ")[1].split(". Response 1: ")[0].split("; ")
            answers, right = answers_of(row), row["ground_truth"]
            (wrong,) = set(answers) - {right}
            assert right in options and right in answers
            places[answers.index(right)] += 1
            mixed += wrong not in options
    assert abs(places[0] - places[1]) < 50 and 10 < mixed < 200  # of 400


def test_the_prompt_is_that_of_the_experiment():
    config = Path(__file__).parents[2] / "experiments/motion_world/isr_dpo/dpo.yaml"
    resampler = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["callbacks"][-1]
    prompts = RetrospectionPrompts(**resampler["init_args"]["prompts"])
    for description in (None, "c."):
        assert prompts.question("What?", description, "a.", "b.") == judge_prompt("What?", ("a.", "b."), description)


def test_what_is_to_be_read_has_no_video_and_its_description_is_true():
    for scene in [scene for scene in SCENES if len(scene.of()) > 1][:50]:
        for task in ("read_captions", "read_answers", "read"):
            (row,) = tasks.rows(scene, tasks.Mix({task: 1}), 1)
            assert row["media"] == {"video": None} and error(scene, description_of(row)) == 0
            assert task != "read" or row["ground_truth"] == language.caption(scene)


def test_the_rows_that_the_measured_bases_learnt_from_stay_the_same():
    digest = hashlib.sha256()
    for name in OLDER:
        for split in ("train", "test"):
            for index in range(4):
                rows = tasks.rows(sample_scene(split, 1, index), tasks.MIXES[name], 8, name)
                digest.update(json.dumps(rows).encode())
    assert digest.hexdigest() == "a2a4871b6ef696dcf75101e89da3c9dcc9d3e582248b6c420dd4a66fa397c954"
