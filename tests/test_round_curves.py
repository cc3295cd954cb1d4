"""Event errors by round: what is read from a run's logs is what the figure shows."""

import pytest
import yaml
from PIL import Image

from lit_vpo.cli import main
from lit_vpo.round_curves import KINDS, draw, read_errors

HEADER = "step,loss,val/base_kl," + ",".join(f"val/captions/event_error/{kind}" for kind in KINDS) + "\n"


def make_run(folder, rows, round_steps=40, header=HEADER):
    (folder / "csv" / "version_0").mkdir(parents=True)
    (folder / "csv" / "version_0" / "metrics.csv").write_text(header + rows)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"round_steps": round_steps}}}))
    return str(folder)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "mrdpo-0", "39,0.7,,,,\n39,,1.5,0.3,0.1,0.2\n79,,2.5,0.2,0.1,0.125\n80,0.6,,,,\n")


@pytest.fixture
def base(tmp_path):
    return make_run(tmp_path / "base", "0,,0.0,0.4,0.1,0.5\n")


def test_every_validation_stands_at_the_rounds_that_had_ended(run, base):
    read = read_errors(run, base)
    assert (read.name, read.rounds, read.kl) == ("mrdpo-0", [0, 1, 2], [0, 1.5, 2.5])
    assert read.errors == {"missed": [0.4, 0.3, 0.2], "incorrect": [0.1] * 3, "hallucinated": [0.5, 0.2, 0.125]}
    assert read.totals == pytest.approx([1.0, 0.6, 0.425])
    assert read_errors(run).rounds == [1, 2]


def test_validations_within_a_round_stand_between(tmp_path):
    run = make_run(tmp_path / "one", "39,,1.5,0.3,0.1,0.2\n399,,2.5,0.2,0.1,0.125\n", round_steps=400)
    assert read_errors(run).rounds == [0.1, 1.0]


def test_rounds_of_several_lengths(tmp_path):
    run = make_run(tmp_path / "one", "39,,1.5,0.3,0.1,0.2\n59,,2.5,0.2,0.1,0.125\n", round_steps=[40, 10, 20])
    assert read_errors(run).rounds == [1.0, 2.5]


def test_the_bars_are_the_kinds_and_the_line_their_sum(run, base):
    read = read_errors(run, base)
    bars, line = draw([read]).axes
    for container, kind, bottom in zip(
        bars.containers, KINDS, ([0] * 3, [0.4, 0.3, 0.2], [0.5, 0.4, 0.3]), strict=True
    ):
        assert [bar.get_height() for bar in container] == pytest.approx(read.errors[kind])
        assert [bar.get_y() for bar in container] == pytest.approx(bottom)
        assert [bar.get_x() + bar.get_width() / 2 for bar in container] == pytest.approx([0, 1, 2])
    (curve,) = line.lines
    assert list(curve.get_xdata()) == read.kl and list(curve.get_ydata()) == read.totals
    assert [text.get_text() for text in line.texts] == ["0", "1", "2"]


def test_the_command_writes_a_row_for_each_run(run, base, tmp_path):
    main(["rounds", run, run, "--base", base])
    assert Image.open(tmp_path / "mrdpo-0" / "rounds.png").size == (1100, 720)


def test_a_run_that_did_not_measure_the_distance_has_one_panel(tmp_path):
    header = HEADER.replace("val/base_kl,", "")
    run = make_run(tmp_path / "old", "39,,0.3,0.1,0.2\n", header=header)
    main(["rounds", run, "--out", str(tmp_path / "new" / "a.png")])
    assert Image.open(tmp_path / "new" / "a.png").size == (550, 360)


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ("39,,1.5,0.3,0.1,0.2\n", {"round_steps": None}, "trained without rounds"),
        ("39,0.7,,,,\n", {}, "add the CaptionScores callback and data.val_prompts"),
        ("39,,1.5,0.3,,0.2\n", {}, "add the CaptionScores callback"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, rows, more, message):
    with pytest.raises(ValueError, match=message):
        read_errors(make_run(tmp_path / "run", rows, **more))


def test_a_folder_of_no_fit(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.yaml; give the --run_dir"):
        read_errors(str(tmp_path))
