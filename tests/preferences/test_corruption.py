import pytest

from lit_vpo.preferences.corruption import corrupted
from lit_vpo.preferences.perturbations import NoPerturbation, perturbed
from lit_vpo.preferences.video_prompts import view_of

PAIR = {"key": "a", "prompt": "?", "chosen": "one, then two", "rejected": "two"}


def test_chosen_is_rejected_on_the_perturbed_video_before_other_negatives():
    rows = [PAIR | {"negatives": [{"text": "three"}]}, PAIR | {"key": "b", "media": {"start_s": 1.0}}]
    first, second = corrupted(rows, "shuffle", 4, num_frames=8, seed=3)
    order = perturbed("shuffle", 4, 8, 3, "a").units
    expected = [{"text": "one, then two", "media": {"frame_order": order}}, {"text": "three"}]
    assert first == rows[0] | {"negatives": expected} and "negatives" not in PAIR
    assert second["media"] == {"start_s": 1.0}
    assert second["negatives"][0]["media"] == {"frame_order": perturbed("shuffle", 4, 8, 3, "b").units}


def test_an_order_of_the_pairs_own_is_perturbed_once_more():
    """Frames 0, 2, 4, 6 in reverse groups of one: 6, 4, 2, 0."""
    (row,) = corrupted([PAIR | {"media": {"frame_order": [0, 2, 4, 6]}}], "reverse", 4, num_frames=4, seed=0)
    assert row["negatives"][0]["media"] == {"frame_order": [6, 4, 2, 0]}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"chosen": ""}, "a has no chosen text or no video"),
        ({"media": {"video": None}}, "a has no chosen text or no video"),
        ({"media": {"frame_order": [0, 1]}}, "a shows 2 frames; give --num-frames 2"),
        ({"media": {"frame_indices": [0, 1, 5]}}, "a shows 3 frames; give --num-frames 3"),
        ({"media": {"splice": {"key": "b", "positions": [0]}}}, "a shows another video already"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        corrupted([PAIR | pair], "reverse", 2, num_frames=4, seed=0)


def test_one_frame_cannot_be_corrupted():
    with pytest.raises(NoPerturbation):
        corrupted([PAIR], "reverse", 2, num_frames=1, seed=0)


def test_the_other_pairs_videos_are_spliced_in():
    first, second = corrupted([PAIR, PAIR | {"key": "b"}], "splice", 2, num_frames=8, seed=0, unit="clips")
    for row, other in ((first, "b"), (second, "a")):
        form = perturbed("splice", 2, 4, 0, row["key"], ["a", "b"])
        assert row["negatives"][0]["media"] == view_of(form, "clips", 8)
        assert row["negatives"][0]["media"]["splice"]["key"] == other
    with pytest.raises(NoPerturbation, match="another video"):
        corrupted([PAIR], "splice", 2, num_frames=8, seed=0)
