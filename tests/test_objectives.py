"""Every shipped loss is built from the words of a command line and trains a tiny model for a step."""

import csv
import json
import math
import pathlib

import pytest
import yaml

from lit_vpo import losses
from lit_vpo.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]


def composite(name, **init_args):
    return {"class_path": f"lit_vpo.losses.{name}", "init_args": init_args}


DPO, ORPO = composite("DPOLoss", beta=0.2), composite("ORPOLoss")
# loss, its settings, rejected responses, and the loss where policy = reference (None: it depends on the model)
BETAS = {"SigmoidNormLoss": 2.0, "SimPOLoss": 2.0, "NegativesLoss": 0.2, "SumLoss": 0.2}  # of the others 0.1
CASES = [
    ("DPOLoss", {"label_smoothing": 0.1}, 1, math.log(2)),
    ("SigmoidNormLoss", {}, 1, math.log(2)),
    ("RobustLoss", {"label_smoothing": 0.2}, 1, math.log(2)),
    ("HingeLoss", {"beta": 0.3}, 1, 1.0),
    ("IPOLoss", {"beta": 0.25, "normalisation": "sum"}, 1, 4.0),
    ("APOZeroLoss", {}, 1, 1.0),
    ("APODownLoss", {}, 1, 1.0),
    ("DPOPLoss", {"penalty": 50.0}, 1, math.log(2)),
    ("LDDPOLoss", {"alpha": 0.3}, 1, math.log(2)),
    ("SimPOLoss", {"gamma": 0.5}, 1, None),
    ("ORPOLoss", {}, 1, None),
    ("MDPOLoss", {"delta": 0.0}, 2, 3 * math.log(2)),
    ("NegativesLoss", {"loss": DPO, "weights": [0.7, 0.3]}, 2, math.log(2)),
    ("SumLoss", {"losses": [DPO, composite("HingeLoss")], "weights": [0.5, 2.0]}, 1, 0.5 * math.log(2) + 2),
    ("SumLoss", {"losses": [DPO, ORPO], "weights": [1.0, 0.1]}, 1, None),
]


def test_every_shipped_loss_is_tried():
    shipped = {name for name in losses.__all__ if name.endswith("Loss")} - {"PreferenceLoss"}
    assert {name for name, *_ in CASES} == shipped


@pytest.mark.parametrize(("name", "settings", "num_negatives", "start"), CASES, ids=[case[0] for case in CASES])
def test_a_loss_trains_from_the_command_line(name, settings, num_negatives, start, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["fit", "-c", "experiments/objectives/dpo.yaml", "--run_dir", str(tmp_path), "--trainer.max_steps", "2"]
    words += ["--model.init_args.loss", json.dumps({"class_path": name, "init_args": settings})]
    words += ["--data.init_args.num_negatives", str(num_negatives), "--data.init_args.num_frames", "16"]
    words += ["--trainer.callbacks", "[]", "--trainer.accumulate_grad_batches", "1", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    main(words)
    asked = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]
    beta = settings.get("beta", BETAS.get(name, 0.1))
    assert asked["loss"]["init_args"].get("beta", beta) == beta and asked["nll_weight"] == 0
    (path,) = tmp_path.glob("csv/*/metrics.csv")
    first, second = (row for row in csv.DictReader(path.open()) if row["loss/dpo"])
    assert math.isfinite(float(second["loss/dpo"])) and float(first["grad_norm"]) > 0
    if start is not None:
        assert float(first["loss/dpo"]) == pytest.approx(start, abs=1e-4)
    assert ("kl" in first) == (name not in ("SimPOLoss", "ORPOLoss"))
