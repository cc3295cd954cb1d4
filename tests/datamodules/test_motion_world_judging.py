"""Imperfect viewers and verdicts by quotation: what they get wrong is known, and the older mixes stay as they were."""

import hashlib
import json
import random
from collections import Counter

import pytest

from lit_vpo.datamodules.motion_world import language, noisy_caption, sample_scene, score_caption, tasks
from lit_vpo.datamodules.motion_world.judging import VERDICTS, error, judge_prompt, quotes
from lit_vpo.datamodules.motion_world.noise import Noise
from lit_vpo.datamodules.motion_world.slips import Slips, misread

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


def test_a_verdict_quotes_the_answer_that_errs_less():
    places, kinds = Counter(), Counter()
    for scene in SCENES:
        for row in tasks.rows(scene, tasks.MIXES["quotes"], 2, "quotes"):
            answers = row["prompt"].split(" Response 1: ")[1].split(" Quote the")[0].split(" Response 2: ")
            errors = [error(scene, answer) for answer in answers]
            assert errors[0] != errors[1]
            better = int(errors[0] > errors[1])
            assert row["meta"]["options"] == quotes(answers)
            assert row["ground_truth"] == f"{answers[better]} {VERDICTS[better]}"
            places[better] += 1
            kinds[row["meta"]["kind"].rsplit(" ")[-1]] += 1
            if row["meta"]["kind"].endswith("true"):
                assert error(scene, row["prompt"].split("Video description: ")[1].split(" Question: ")[0]) == 0
    assert abs(places[0] - places[1]) < 50  # of 400
    assert {kind: round(8 * number / 400) for kind, number in kinds.items()} == {"none": 2, "true": 3, "own": 3}


def test_the_two_orders_of_two_answers_ask_the_same_thing():
    assert judge_prompt("What?", ("a.", "b."), None) == (
        "Question: What? Response 1: a. Response 2: b. Quote the response that is better grounded in the video."
    )
    assert judge_prompt("What?", ("a.", "b."), "c.").startswith("Video description: c. Question: What? Response 1: a.")
    assert quotes(("a.", "b.")) == ["a. My choice is Response 1.", "b. My choice is Response 2."]


def test_what_is_to_be_read_has_no_video_and_its_description_is_true():
    for scene in SCENES[:50]:
        (alone,) = tasks.rows(scene, tasks.Mix({"read_quote": 1}), 1)
        (retold,) = tasks.rows(scene, tasks.Mix({"read": 1}), 1)
        for row in (alone, retold):
            assert row["media"] == {"video": None}
            assert error(scene, row["prompt"].split("Video description: ")[1].split(" Question: ")[0]) == 0
        assert retold["ground_truth"] == language.caption(scene)
        assert alone["ground_truth"] in alone["meta"]["options"]


def test_the_rows_that_the_measured_bases_learnt_from_stay_the_same():
    digest = hashlib.sha256()
    for name in OLDER:
        for split in ("train", "test"):
            for index in range(4):
                rows = tasks.rows(sample_scene(split, 1, index), tasks.MIXES[name], 8, name)
                digest.update(json.dumps(rows).encode())
    assert digest.hexdigest() == "a2a4871b6ef696dcf75101e89da3c9dcc9d3e582248b6c420dd4a66fa397c954"
