import pytest
from PIL import Image

from lit_vpo.curves import is_drawn, plot, read_runs


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_versions_of_a_resumed_run_continue_each_other(tmp_path):
    write(
        tmp_path / "dpo/version_2/metrics.csv",
        "epoch,step,train/loss,val/captions/order_error\n0,1,3.0,\n0,1,,0.5\n0,2,2.0,\n",
    )
    # version 10 comes after version 2 and repeats step 2
    write(tmp_path / "dpo/version_10/metrics.csv", "epoch,step,train/loss\n0,2,1.5\n0,3,1.0\n")
    write(tmp_path / "sft/metrics.csv", "step,train/loss\n5,9.0\n4,8.0\n")
    assert read_runs(str(tmp_path)) == {
        "dpo": {"train/loss": {1: 3.0, 2: 1.5, 3: 1.0}, "val/captions/order_error": {1: 0.5}},
        "sft": {"train/loss": {4: 8.0, 5: 9.0}},
    }


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    write(tmp_path / "metrics.csv", "loss,step\n1.0,1\n0.5")
    assert read_runs(str(tmp_path)) == {".": {"loss": {1: 1.0}}}


def test_a_real_csv_logger_is_read(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    for version, steps in ((0, (0, 1)), (1, (2,))):
        logger = CSVLogger(tmp_path, name="run", version=version)
        for step in steps:
            logger.log_metrics({"loss/dpo": 1.0 / (step + 1), "epoch": 0}, step=step)
            logger.log_metrics({"val/accuracy": float(step)}, step=step)
        logger.save()
    assert read_runs(str(tmp_path)) == {
        "run": {"loss/dpo": {0: 1.0, 1: 0.5, 2: pytest.approx(1 / 3)}, "val/accuracy": {0: 0.0, 1: 1.0, 2: 2.0}}
    }


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("loss", True),
        ("train/loss/dpo_step", True),
        ("rewards/margins", True),
        ("train/rewards/accuracies_epoch", True),
        ("val/captions/event_error/total", True),
        ("rewards/chosen", False),
        ("lr-AdamW", False),
    ],
)
def test_what_is_drawn(name, drawn):
    assert is_drawn(name) == drawn


def test_plot_writes_a_png_with_a_panel_for_each_metric(tmp_path):
    header = "step,loss,rewards/margins,rewards/accuracies,val/a,lr\n"
    write(tmp_path / "version_0/metrics.csv", header + "1,1.0,0.0,0.5,0.1,1e-5\n2,0.5,0.2,0.7,0.2,1e-5\n")
    out = plot([str(tmp_path)])
    assert out == tmp_path / "curves.png"
    assert Image.open(out).size == (1350, 560)  # four panels: two rows of three
    assert plot([str(tmp_path)], str(tmp_path / "new" / "a.png")).exists()


def test_without_anything_to_draw(tmp_path):
    with pytest.raises(ValueError, match=r"holds no metrics\.csv"):
        plot([str(tmp_path)])
    write(tmp_path / "metrics.csv", "step,lr\n1,0.1\n")
    with pytest.raises(ValueError, match="only: lr"):
        plot([str(tmp_path)])


def test_chosen_metrics_share_the_panel_of_their_pattern(tmp_path, capsys):
    write(tmp_path / "metrics.csv", "step,val/a/r16,val/a/r8,val/a/r8/drop,lr\n1,0.1,0.2,0,3\n2,0.1,0.2,0,3\n")
    path = plot([str(tmp_path)], metrics=["val/a/*", "lr"])
    width, height = Image.open(path).size
    assert (width, height) == (900, 280) and "3 curves" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"nothing like val/b/\*, only: lr, val/a/r16, val/a/r8, val/a/r8/drop"):
        plot([str(tmp_path)], metrics=["val/a/*", "val/b/*"])


def test_means_of_chosen_metrics_by_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name, values in (("before", (1.0, 2.0, 6.0)), ("after", (0.5,))):
        lines = [f"{step},{value},9\n" for step, value in enumerate(values)]
        write(tmp_path / name / "metrics.csv", "step,loss,val/loss\n" + "".join(lines))
    plot([str(tmp_path / "before"), str(tmp_path / "after")], metrics=["loss"])
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [str(tmp_path / "before"), "loss", "3", "3", "2.16", "6"],
        [str(tmp_path / "after"), "loss", "1", "0.5", "0", "0.5"],
    ]
