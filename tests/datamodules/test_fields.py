import math

import pytest

from lit_vpo.datamodules.fields import check_fields


@pytest.mark.parametrize("weight", [-1, -0.5, math.nan, math.inf, "1", True])
def test_a_weight_is_a_finite_number_from_zero_on(weight):
    with pytest.raises(ValueError, match="here, field 'weight'"):
        check_fields({"weight": weight}, "here")
    for good in (0, 0.0, 2, 0.5, None):
        check_fields({"weight": good}, "here")


@pytest.mark.parametrize("options", ["yes", {"a": 1}, ["yes", 1], [None]])
def test_options_are_a_list_of_texts(options):
    with pytest.raises(ValueError, match=r"here, field 'meta.options'"):
        check_fields({"meta": {"options": options}}, "here")


def test_null_is_the_same_as_absent():
    names = ("media", "meta", "history", "mode", "prompt", "chosen", "weight", "events", "scores", "perturbation")
    check_fields(dict.fromkeys(names), "here")
    check_fields({"media": {"video": None, "frame_order": None}, "meta": {"options": None}}, "here")


@pytest.mark.parametrize(
    ("negatives", "field"),
    [
        ("a dog", "negatives"),
        (["a dog"], r"negatives\[0\]"),
        ([{"text": "a dog"}, {"media": {}}], r"negatives\[1\]"),
        ([{"text": "a dog", "media": ["start_s"]}], r"negatives\[0\].media"),
        ([{"text": "a dog", "media": {"video": "other.mp4"}}], r"negatives\[0\].media"),
        ([{"text": "a dog", "media": {"start_s": "1"}}], r"negatives\[0\].media.start_s"),
        ([{"text": "a dog", "media": {"frame_order": [-1]}}], r"negatives\[0\].media.frame_order"),
    ],
)
def test_a_negative_is_a_text_and_perhaps_a_view(negatives, field):
    with pytest.raises(ValueError, match=f"here, field '{field}'"):
        check_fields({"negatives": negatives}, "here")
    good = {"text": "a dog", "media": {"frame_order": [1, 0], "start_s": 0.5, "end_s": None}}
    check_fields({"negatives": [{"text": "a cat"}, good]}, "here")


@pytest.mark.parametrize(
    ("views", "field"),
    [
        ({"negatives": {}}, "views"),
        ({"rejected": {"video": "other.mp4"}}, "views.rejected"),
        ({"chosen": {"end_s": "1"}}, "views.chosen.end_s"),
    ],
)
def test_views_are_of_chosen_and_rejected(views, field):
    with pytest.raises(ValueError, match=f"here, field '{field}'"):
        check_fields({"views": views}, "here")
    check_fields({"views": {"rejected": {"frame_order": [1, 0]}}}, "here")


@pytest.mark.parametrize("seconds", [10**400, float("nan"), float("inf"), -(10**12)])
def test_times_are_numbers_that_a_video_can_have(seconds):
    with pytest.raises(ValueError, match=r"here, field 'media\.start_s': must be a number below 1e\+09"):
        check_fields({"media": {"start_s": seconds}}, "here")
