"""A killed `predict` goes on where it was cut, and ends with the rows of a straight one; other options are refused."""

import json
import pathlib

import pytest

from lit_vpo.cli import main
from lit_vpo.modules import DPOModule

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORLD = "experiments/smoke/world"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def predict(folder, *words):
    main(
        ["predict", "-c", "experiments/smoke/dpo.yaml", "--run_dir", str(folder), "--return_predictions", "false",
         "--data.init_args.predict.shards", WORLD, "--data.init_args.batch_size", "3",
         "--model.init_args.max_new_tokens", "4", "--model.init_args.temperature", "1.0",
         "--trainer.callbacks+=GenerationWriter", "--trainer.callbacks.path", str(folder / "g.jsonl"), *words]
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Ids that the policy is asked about; `asked.cut` is how many batches it answers before the power goes out."""

    class Asked(list):
        cut = 99

    seen, step = Asked(), DPOModule.predict_step

    def watched(self, batch, *rest):
        seen.append([record["id"][-1] for record in batch["records"]])
        if len(seen) > seen.cut:
            raise RuntimeError("the power went out")
        return step(self, batch, *rest)

    monkeypatch.setattr(DPOModule, "predict_step", watched)
    return seen


def cut(folder, asked):
    asked.cut = 2
    with pytest.raises(RuntimeError, match="the power went out"):
        predict(folder)
    asked.cut = 99
    asked.clear()
    return folder / "g.jsonl.part"


def test_a_killed_predict_goes_on_behind_its_last_whole_batch(tmp_path, asked):
    """Eight prompts in batches of three: the second one comes again, since nobody knows whether it was whole."""
    predict(tmp_path / "straight")
    assert asked == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]
    asked.clear()
    part = cut(tmp_path / "cut", asked)
    with part.open("a") as file:
        file.write('{"id": "torn')
    predict(tmp_path / "cut")
    assert asked == [["3", "4", "5"], ["6", "7"]]
    assert (tmp_path / "cut/g.jsonl").read_bytes() == (tmp_path / "straight/g.jsonl").read_bytes()
    assert sorted(path.name for path in (tmp_path / "cut").glob("g.*")) == ["g.jsonl"]
    asked.clear()
    predict(tmp_path / "cut")  # a whole file is written anew, and replaced in one step
    assert len(asked) == 3
    assert (tmp_path / "cut/g.jsonl").read_bytes() == (tmp_path / "straight/g.jsonl").read_bytes()


def test_candidates_of_a_prompt_are_kept_together(tmp_path, asked):
    words = ("--model.init_args.num_candidates", "2")
    predict(tmp_path / "straight", *words)
    lines = (tmp_path / "straight/g.jsonl").read_text().splitlines(keepends=True)
    asked.cut = 2 + len(asked)
    with pytest.raises(RuntimeError, match="the power went out"):
        predict(tmp_path / "cut", *words)
    (tmp_path / "cut/g.jsonl.part").write_text("".join(lines[:9]))  # into the second batch
    asked.cut = 99
    predict(tmp_path / "cut", *words)
    assert (tmp_path / "cut/g.jsonl").read_text() == "".join(lines)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--model.init_args.temperature", "0.5"), r"sampling\.temperature: 1\.0, now 0\.5"),
        (("--data.init_args.batch_size", "2"), r"prompts\.batch_size: 3, now 2"),
        (("--data.init_args.num_frames", "4"), r"prompts\.sampling: 'Uniform\(num_frames=16\)', now 'Uniform"),
        (("--data.init_args.predict.limit", "7"), r"prompts\.overlay_hash: '', now"),
        (("--model.init_args.model", "tiny_llava_onevision"), r"model\.name: 'tiny_qwen2_5_vl', now"),
    ],
)
def test_answers_of_other_options_are_never_mixed_in(words, named, tmp_path, asked):
    part = cut(tmp_path, asked)
    before = part.read_text()
    with pytest.raises(ValueError, match=f"other options .*{named}"):
        predict(tmp_path, *words)
    assert asked == [] and part.read_text() == before and [json.loads(line)["id"][-1] for line in before.splitlines()]
    part.unlink()
    predict(tmp_path, *words)
    assert len(asked) > 2
