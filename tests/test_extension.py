"""A user's own loss, perturbation, filter, callback, scorer and family, from their own package by dotted path."""

import json
import pathlib
import sys

import pytest

from lit_vpo.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]

PACKAGE = '''
import torch
from lit_vpo.callbacks import StepCallback
from lit_vpo.losses import PreferenceLoss
from lit_vpo.metrics import CaptionCounts
from lit_vpo.models.llava_onevision import LlavaOnevision


class MyHingeLoss(PreferenceLoss):
    """max(0, 1 - beta * margin)"""

    def forward(self, chosen, rejected):
        return torch.relu(1 - self.rewards(chosen) + self.rewards(rejected))


class Note(StepCallback):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def on_step(self, trainer, module, step: int) -> None:
        with open(self.path, "a") as file:
            file.write(f"{step} {type(module.loss).__name__} {type(module.family).__name__}\\n")


class MyFamily(LlavaOnevision):
    name = "my_family"


def mirror(num_units, r, draws):
    return list(reversed(range(num_units)))


def says_nothing(chosen, rejected):
    return "nothing" in chosen["response"]


def count_words(caption: str, record: dict) -> CaptionCounts:
    words = len(caption.split())
    return CaptionCounts(1, 0, 0, 0, 0, 0, 1, 0, words, 0)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "user_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.chdir(ROOT)
    yield "user_package"
    sys.modules.pop("user_package", None)


def test_loss_callback_and_family_by_dotted_path(package, tmp_path):
    notes = tmp_path / "notes.txt"
    main(
        ["fit", "-c", "experiments/smoke/dpo.yaml", "--run_dir", str(tmp_path / "run"), "--trainer.max_steps", "2",
         "--model.init_args.model", "tiny_llava_onevision", "--model.init_args.family", f"{package}.MyFamily",
         "--model.init_args.loss", f"{package}.MyHingeLoss", "--model.init_args.loss.init_args.beta", "0.25",
         "--trainer.callbacks+", f"{package}.Note", "--trainer.callbacks.path", str(notes)]
    )  # fmt: skip
    assert notes.read_text().splitlines() == ["1 MyHingeLoss MyFamily", "2 MyHingeLoss MyFamily"]


def test_perturbation_by_dotted_path(package, world, tmp_path):
    out = tmp_path / "prompts.jsonl"
    main(["pairs", "prompts", str(world), "--out", str(out), "--kind", f"{package}.mirror", "--r", "2"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    orders = [row["media"]["frame_order"] for row in rows if row.get("perturbation")]
    assert len(orders) == 8 and all(order == list(range(15, -1, -1)) for order in orders)


def answer(key, kind, text):
    return {
        "key": key, "id": f"{key}/{kind}", "prompt": "?", "response": text, "finished": True,
        "perturbation": {"kind": kind, "r": 2} if kind else None,
    }  # fmt: skip


def test_pair_filter_by_dotted_path(package, tmp_path):
    rows = [answer(key, None, text) for key, text in (("a", "nothing at all"), ("b", "one, then two"))]
    rows += [answer(key, kind, f"{kind} answer") for key in "ab" for kind in ("drop", "reverse")]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "pairs.jsonl"
    words = ["pairs", "build", str(tmp_path / "g.jsonl"), "--out", str(out)]
    main([*words, "--filter", f"{package}.says_nothing", "--filter", "equal", "--max-pairs-per-video", "1"])
    (pair,) = (json.loads(line) for line in out.read_text().splitlines())
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "pairs.dropped.jsonl").read_text().splitlines()]
    assert pair["key"] == "b"
    assert reasons == [f"{package}.says_nothing"] * 2 + ["max_pairs_per_video"]


def test_caption_scorer_by_dotted_path(package, tmp_path):
    for name, text in (("before", "one two"), ("after", "one two three")):
        row = {"id": "a", "key": "a", "prompt": "?", "response": text, "finished": True}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "table.md"
    scorer = f"{package}.count_words"
    main(
        [
            "compare",
            str(tmp_path / "before.jsonl"),
            str(tmp_path / "after.jsonl"),
            "--scorer",
            scorer,
            "--out",
            str(out),
        ]
    )
    line = next(line for line in out.read_text().splitlines() if "words" in line)
    assert "2.0" in line and "3.0" in line
