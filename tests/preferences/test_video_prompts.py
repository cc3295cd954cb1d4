import pytest

from lit_vpo.preferences.perturbations import OTHER, Form, perturbed
from lit_vpo.preferences.video_prompts import caption_requests, perturbed_prompts, view_of


def view(kind, r, units, unit="frames", num_frames=16, other=None):
    return view_of(Form(kind, r, units, other), unit, num_frames)


def prompted(keys, prompts, kinds, divisors, num_frames, seed, *rest):
    return perturbed_prompts(caption_requests(keys, prompts, seed), kinds, divisors, num_frames, seed, *rest)


def test_drop_shows_each_kept_frame_equally_often():
    assert view("drop", 4, [2, 3, 7, 15]) == {"frame_order": [2] * 4 + [3] * 4 + [7] * 4 + [15] * 4}
    uneven = view("drop", 8, [4, 8, 30], num_frames=31)["frame_order"]  # 3 kept of 31: 11, 10 and 10 times
    assert uneven == [4] * 11 + [8] * 10 + [30] * 10


def test_clips_are_pairs_of_frames():
    """8 frames are 4 clips: reversed at r = 4, one dropped to, and frozen on the second."""
    assert view("reverse", 4, [3, 2, 1, 0], "clips", 8) == {"frame_order": [6, 7, 4, 5, 2, 3, 0, 1]}
    assert view("drop", 4, [2], "clips", 8) == {"frame_order": [4, 5] * 4}
    assert view("freeze", 4, [1] * 4, "clips", 8) == {"frame_order": [2, 3] * 4}


def test_splice_names_the_other_video_and_its_places():
    units = [OTHER, 1, 2, OTHER]
    assert view("splice", 2, units, "frames", 4, "b") == {"splice": {"key": "b", "positions": [0, 3]}}
    assert view("splice", 2, units, "clips", 8, "b") == {"splice": {"key": "b", "positions": [0, 1, 6, 7]}}
    both = view("mine", 2, [1, OTHER, 0, 3], "frames", 4, "b")  # a user's own may also move what stays
    assert both == {"frame_order": [1, 1, 0, 3], "splice": {"key": "b", "positions": [1]}}


@pytest.mark.parametrize(
    ("unit", "num_frames", "message"),
    [
        ("seconds", 16, "unknown unit 'seconds' of a video; known: frames, clips"),
        ("captions", 16, "captions are perturbed by `pairs lists`"),
        ("clips", 15, "15 frames do not make whole clips; sample an even number"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(unit, num_frames, message):
    with pytest.raises(ValueError, match=message):
        prompted(["a"], ["P"], ["drop"], [2], num_frames, 0, unit)


def test_selected_videos_show_their_clips_and_nothing_else():
    """Three clips of one video, two of the other: their frames are the plan."""
    frames = {"a": [0, 3, 10, 13, 20, 23], "b": [1, 2, 5, 6]}
    rows = prompted(["a", "b"], ["P"], ["reverse"], [4], 16, 0, "clips", frames)
    assert [row["media"] for row in rows] == [
        {"frame_indices": frames["a"]},
        {"frame_indices": frames["a"], "frame_order": [4, 5, 2, 3, 0, 1]},
        {"frame_indices": frames["b"]},
        {"frame_indices": frames["b"], "frame_order": [2, 3, 0, 1]},
    ]


def test_every_kind_is_asked_about_with_its_form():
    kinds = ["drop", "shuffle", "reverse", "freeze", "splice"]
    rows = prompted(["a", "b"], ["P"], kinds, [4], 8, seed=3)
    assert [row["id"] for row in rows[:6]] == ["a/clean", *(f"a/{kind}-4" for kind in kinds)]
    for kind, row in zip(kinds, rows[1:6], strict=True):
        form = perturbed(kind, 4, 8, 3, "a", ["a", "b"])
        assert row["media"] == view_of(form, "frames", 8) and row["perturbation"]["units"] == form.units
    assert rows[5]["media"]["splice"]["key"] == rows[5]["perturbation"]["other"] == "b"


def test_prompts_are_one_clean_row_and_one_per_cell():
    rows = prompted(["a", "b"], ["P", "Q"], ["drop", "reverse"], [2, 16], 4, 0)
    assert [row["id"] for row in rows[:5]] == ["a/clean", "a/drop-2", "a/drop-16", "a/reverse-2", "a/reverse-16"]
    assert len(rows) == 10
    assert rows[0] == {"key": "a", "id": "a/clean", "prompt": rows[0]["prompt"], "media": {}, "perturbation": None}
    assert rows[3] == {
        "key": "a",
        "id": "a/reverse-2",
        "prompt": rows[0]["prompt"],
        "media": {"frame_order": [2, 3, 0, 1]},
        "perturbation": {"kind": "reverse", "r": 2, "unit": "frames", "units": [2, 3, 0, 1]},
        "r": 2,
        "difficulty": 1.0,
    }


def test_a_videos_rows_do_not_depend_on_its_neighbours():
    every = prompted(["a", "b", "c"], ["P", "Q"], ["shuffle"], [16], 16, 5)
    alone = prompted(["c"], ["P", "Q"], ["shuffle"], [16], 16, 5)
    assert every[-2:] == alone


def test_each_prompt_is_drawn_for_some_video():
    rows = prompted([f"k{i}" for i in range(300)], ["P", "Q", "R"], ["drop"], [2], 4, 0)
    asked = [row["prompt"] for row in rows if row["perturbation"] is None]
    assert all(70 < asked.count(prompt) < 130 for prompt in "PQR")


def test_impossible_perturbations_are_skipped_and_said():
    with pytest.warns(UserWarning, match="2 prompts skipped: reverse at r=2 leaves 1 unit"):
        rows = prompted(["a", "b"], ["P"], ["reverse"], [2], 1, 0)
    assert [row["id"] for row in rows] == ["a/clean", "b/clean"]


def test_the_same_frames_are_asked_about_once():
    with pytest.warns(UserWarning, match="2 prompts skipped: shuffle at r=2 shows the same frames as reverse at r=2"):
        rows = prompted(["a", "b"], ["P"], ["reverse", "shuffle"], [2], 16, 0)
    assert [row["id"] for row in rows] == ["a/clean", "a/reverse-2", "b/clean", "b/reverse-2"]
    with pytest.warns(UserWarning, match="1 prompts skipped: reverse at r=8 is reverse at r=16 on 8 frames"):
        rows = prompted(["a"], ["P"], ["reverse"], [16, 8], 8, 0)
    assert [row["id"] for row in rows] == ["a/clean", "a/reverse-16"]


@pytest.mark.parametrize(
    ("prompts", "kinds", "divisors"), [([], ["drop"], [2]), (["P"], ["drop"], []), (["P"], ["drop"], [2, 2])]
)
def test_empty_or_repeated_choices_are_refused(prompts, kinds, divisors):
    with pytest.raises(ValueError, match="must hold at least one value"):
        prompted(["a"], prompts, kinds, divisors, 4, 0)


def test_questions_are_asked_as_they_are():
    questions = [
        {"key": "a", "id": "a/first", "prompt": "First?", "meta": {"options": ["x", "y"]}},
        {"key": "a", "id": "a/last", "prompt": "Last?", "meta": {"options": ["x", "y"]}},
    ]
    rows = perturbed_prompts(questions, ["reverse"], [4], 16, 0)
    assert [row["id"] for row in rows] == ["a/first/clean", "a/first/reverse-4", "a/last/clean", "a/last/reverse-4"]
    assert [row["prompt"] for row in rows] == ["First?", "First?", "Last?", "Last?"]
    assert rows[1]["meta"] == questions[0]["meta"] and rows[1]["media"] == rows[3]["media"]


def test_what_a_question_is_about_stays():
    media = {"start_s": 1, "end_s": 2, "use_audio": True}
    asked = {"key": "a", "id": "a", "prompt": "P", "media": media}
    clean, reverse = perturbed_prompts([asked], ["reverse"], [2], 4, 0)
    assert clean["media"] == media and reverse["media"] == media | {"frame_order": [2, 3, 0, 1]}
    for wrong in ({"video": None}, {"frame_order": [1, 0]}, {"splice": {"key": "b", "positions": [0]}}):
        with pytest.raises(ValueError, match="a has no video, or a view of it already"):
            perturbed_prompts([asked | {"media": wrong}], ["reverse"], [2], 4, 0)


def test_without_kinds_the_clean_videos_are_asked_about():
    assert [row["id"] for row in perturbed_prompts(caption_requests(["a", "b"], ["P"], 0), [], [], 4, 0)] == [
        "a/clean", "b/clean"
    ]  # fmt: skip
