import numpy as np
import pytest

from lit_vpo.datamodules.sampling import (
    NAMED,
    ConstantTokens,
    Fps,
    PixelBudget,
    Sampling,
    Uniform,
    as_sampling,
    fitted,
)


def test_hound_shows_eight_uniform_frames():
    assert NAMED["hound"].positions(71, 30.0) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert NAMED["hound"].positions(3, 30.0) == [0, 0, 0, 0, 1, 1, 1, 2]
    assert NAMED["hound"].max_pixels(8) is None


def test_video_salmonn_2_takes_every_second_until_there_are_110():
    rule = NAMED["video_salmonn_2"]
    assert rule.positions(300, 29.97) == list(range(0, 300, 30))
    assert len(rule.positions(110 * 30, 30.0)) == 110 and rule.positions(110 * 30, 30.0)[-1] == 109 * 30
    assert rule.positions(111 * 30, 30.0) == np.linspace(0, 3329, 110, dtype=int).tolist()
    assert rule.positions(5, 0.5) == [0, 1, 2, 3, 4]  # slower than the rate: every frame


@pytest.mark.parametrize(
    ("seconds", "count", "pixels"),
    [
        (0.1, 64, 698_250),
        (3, 64, 698_250),
        (10, 100, 446_880),
        (76.7, 767, 58_263.3637),
        (76.8, 768, 61_250),
        (999, 768, 61_250),
    ],
)
def test_video_salmonn_2_plus_spends_the_same_tokens_on_short_and_long(seconds, count, pixels):
    rule = NAMED["video_salmonn_2_plus"]
    places = rule.positions(round(seconds * 10), 10.0)
    assert len(places) == count and places[0] == 0 and places[-1] == round(seconds * 10) - 1
    assert rule.max_pixels(count) == pytest.approx(pixels)


@pytest.mark.parametrize(
    ("seconds", "count", "pixels"),
    [
        (1, 4, 602_112),
        (9.9, 8, 602_112),
        (30, 30, 600_000),
        (60, 60, 300_000),
        (599, 598, 30_100.334),
        (9999, 600, 30_000),
    ],
)
def test_tempo_shares_nine_million_pixels_among_pairs_of_frames(seconds, count, pixels):
    rule = NAMED["tempo"]
    places = rule.positions(round(seconds * 10), 10.0)
    assert places == np.linspace(0, round(seconds * 10) - 1, count).round().astype(int).tolist()
    assert rule.max_pixels(count) == pytest.approx(pixels)
    assert rule.positions(1, 10.0) == [0, 0] and rule.positions(3, 10.0) == [0, 2]


def test_tempos_smallest_frame_is_bounded():
    assert PixelBudget(total_pixels=1000).max_pixels(4) == 3292  # 1.05 times 3136, cut


def test_a_shape_is_known_from_numbers_alone():
    assert NAMED["tempo"].shape(1800, 30.0, 720, 1280) == (60, *fitted(720, 1280, None, 300_000))
    assert Uniform(4).shape(9, 30.0, 480, 640, size=240) == (4, 240, 320)


@pytest.mark.parametrize(
    ("size", "bound", "expected"),
    [
        (None, None, (720, 1280)),
        (360, None, (360, 640)),
        (1440, None, (1440, 2560)),
        (None, 10**6, (720, 1280)),
        (None, 230_400, (360, 640)),
        (360, 14_400, (90, 160)),
        (None, 1, (1, 1)),
    ],
)
def test_a_bound_shrinks_and_never_enlarges(size, bound, expected):
    assert fitted(720, 1280, size, bound) == expected


def test_rules_by_name_number_and_object():
    assert as_sampling("tempo") is NAMED["tempo"] and as_sampling(3) == Uniform(3)
    assert as_sampling(Fps(2.0)) == Fps(2.0, 110)
    with pytest.raises(ValueError, match=r"must be one of tempo, hound, video_salmonn_2, .*'uniform'"):
        as_sampling("uniform")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(0), "num_frames must be >= 1"),
        (lambda: Fps(0.0), "fps must be > 0"),
        (lambda: Fps(1.0, 0), "max_frames must be >= 1"),
        (lambda: PixelBudget(max_frames=1), "max_frames must be >= 2"),
        (lambda: PixelBudget(total_pixels=0), "total_pixels must be >= 1"),
        (lambda: ConstantTokens(min_frames=9, max_frames=8), "max_frames must be >= min_frames"),
        (lambda: ConstantTokens(interval_s=0), "interval_s must be > 0"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rule_whose_repr_says_nothing_is_refused():
    class Middle(Sampling):
        def positions(self, num_frames, fps):
            return [num_frames // 2]

    with pytest.raises(ValueError, match=r"caches go by repr\(Middle\); make it a dataclass"):
        as_sampling(Middle())
