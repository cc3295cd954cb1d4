"""ISR-DPO's loop in one fit: answers, contexts, verdicts and pairs of each iteration, the same after a cut anywhere."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import retrospection_run
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_vpo.atomic import append_line
from lit_vpo.callbacks import LoRAMergeReinit, ReferenceRefresh, SelfRetrospectiveResampler
from lit_vpo.datamodules import RoundPreferenceDataModule, Source
from lit_vpo.datamodules.motion_world import true_caption
from lit_vpo.lora import LoRASettings
from lit_vpo.modules import DPOModule
from lit_vpo.preferences.contexts import RetrospectionPrompts
from lit_vpo.preferences.judges import RandomJudge
from lit_vpo.store import TensorStore

NAME = "motion_world_base"
ITERATIONS = 9
PROMPTS = RetrospectionPrompts(
    "Describe the video in detail.",
    "Here is a previous description of the video: {context} Watch the video again and write the improved description.",
    "Video description: {context} ",
    "{description}Question: {question} Response 1: {first} Response 2: {second} "
    "Which response is better grounded in the video?",
    ("My choice is Response 1.", "My choice is Response 2."),
)


class Cut(Exception):
    """Stands for a kill."""


class Taste(DPOModule):
    """A policy that also goes by the alphabet when it judges: both orders agree, whatever the base has learnt."""

    def choices(self, batch):
        rows = super().choices(batch)
        for row in rows:
            texts = re.search("Response 1: (.*) Response 2: (.*) Which", row["prompt"]).groups()
            row["option_logps"][texts[0] > texts[1]] += 10
        return rows


def make(kind=Taste, **more):
    options = {"lora": LoRASettings(r=4, alpha=8), "round_steps": 1, "max_new_tokens": 80, "check_video": False}
    return kind(NAME, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2), **options | more)


def make_data(world, **more):
    options = {"train": Source(str(world)), "candidates": Source(str(world), limit=2), "num_frames": 4}
    options |= {"batch_size": 2, "eval_batch_size": 1, "world_multiple": 1}
    return RoundPreferenceDataModule(NAME, **options | more)


def resampler(**more):
    return SelfRetrospectiveResampler(**{"prompts": PROMPTS, "temperature": 1.0} | more)


def fit(world, folder, module=None, data=None, callback=None, steps=ITERATIONS, ckpt=None, boundary=None):
    module, data = module or make(), data or make_data(world)
    saver = ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    seen, original = [], module.training_step

    def spy(batch, batch_idx):
        seen.append([record["id"] for record in batch["records"]])
        assert all(record["prompt"].startswith(("Describe", "What", "Explain", "Write")) for record in batch["records"])
        return original(batch, batch_idx)

    module.training_step = spy
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"logger": CSVLogger(folder / "csv", flush_logs_every_n_steps=1), "log_every_n_steps": 1}
    quiet |= {"default_root_dir": folder, "max_epochs": -1, "max_steps": steps, "num_sanity_val_steps": 0}
    run = Trainer(**quiet, callbacks=[boundary or LoRAMergeReinit(), callback or resampler(), saver])
    try:
        run.fit(module, data, ckpt_path=ckpt)
    finally:
        del module.training_step
    return module, seen, run


def rows_of(folder, round_index, name):
    path = folder / "rounds" / str(round_index) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def equal(module, other):
    expected = weights(other)
    return all(torch.equal(tensor, expected[name]) for name, tensor in weights(module).items())


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, *fit(world, folder)


def test_each_iteration_judges_answers_of_its_own_policy_by_contexts_that_go_on(straight):
    folder, _, seen, _ = straight
    assert not (folder / "rounds" / str(ITERATIONS)).exists()  # nobody would train on them
    for k in range(ITERATIONS):
        verdicts, pairs = rows_of(folder, k, "verdicts.0-1"), rows_of(folder, k, "pairs")
        contexts = {row["key"]: row for row in rows_of(folder, k, "contexts")}
        assert len(verdicts) == len(contexts) == 2 and {row["iteration"] for row in verdicts} == {k + 1}
        before = {row["key"]: row["context"] for row in rows_of(folder, k - 1, "contexts")} if k else {}
        for row in verdicts:
            assert row["context"] == contexts[row["key"]]["context"] and row["context_prev"] == before.get(row["key"])
            assert row["choices"][0] == row["choices"][1] == 1 + (row["answers"][0] > row["answers"][1])
        chosen = {f"{row['id']}/round-{k}": row for row in verdicts if row["choice"]}
        assert set(seen[k]) <= {pair["id"] for pair in pairs} == set(chosen)
        for pair in pairs:
            row = chosen[pair["id"]]
            assert pair["prompt"] == row["prompt"] and row["context"] not in pair["prompt"]
            assert [pair["chosen"], pair["rejected"]] == sorted(row["answers"]) and pair["round"] == k
    models = {json.dumps(rows_of(folder, k, "candidates.0-1")[0]["model"]) for k in range(ITERATIONS)}
    assert len(models) == ITERATIONS  # each of its own policy
    (path,) = folder.glob("csv/**/metrics.csv")
    logged = [int(float(row["round/pairs"])) for row in csv.DictReader(path.open()) if row["round/pairs"]]
    assert logged == [len(rows_of(folder, k, "pairs")) for k in range(ITERATIONS)]


def killing(monkeypatch, name, round_index):
    """The second batch of a file of a round is half written when the power goes out."""
    calls = []

    def write(path, line):
        if (path.name, path.parent.name) == (f"{name}.0-1.jsonl", str(round_index)):
            calls.append(line)
            if len(calls) == 2:
                with path.open("a") as file:
                    file.write(line[: len(line) // 2])
                raise Cut
        append_line(path, line)

    monkeypatch.setattr("lit_vpo.callbacks.round_sampling.append_line", write)


def test_cut_in_each_kind_of_stage_equals_straight(straight, world, tmp_path, monkeypatch):
    folder, module, seen, _ = straight
    rest, ckpt = [], None
    for name, round_index in (("candidates", 0), ("contexts", 2), ("replies", 4)):
        killing(monkeypatch, name, round_index)
        with pytest.raises(Cut):
            fit(world, tmp_path, ckpt=ckpt)
        ckpt = tmp_path / "steps" / f"step={round_index - 1}.ckpt" if round_index > 1 else None
    monkeypatch.undo()
    stop = make()
    monkeypatch.setattr(stop, "on_train_batch_start", lambda batch, number: stop.trainer.global_step == 6 and cut())
    with pytest.raises(Cut):
        fit(world, tmp_path, stop, ckpt=ckpt)
    resumed, rest, _ = fit(world, tmp_path, ckpt=tmp_path / "steps" / "step=6.ckpt")
    assert rest == seen[6:]
    for k in range(ITERATIONS):
        for name in ("verdicts.0-1", "contexts", "pairs"):
            assert rows_of(tmp_path, k, name) == rows_of(folder, k, name)
    assert equal(resumed, module)


def cut():
    raise Cut


@pytest.mark.parametrize("source", ["none", "stale", "other", "oracle"])
def test_controls_differ_in_what_the_judge_reads(world, tmp_path, source):
    steps = 2 if source == "stale" else 1
    fit(world, tmp_path, callback=resampler(context=source, oracle=true_caption), steps=steps)
    verdicts = rows_of(tmp_path, steps - 1, "verdicts.0-1")
    assert {row["judge"]["context"] for row in verdicts} == {source}
    asked = {row["prompt_id"]: row["prompt"] for row in rows_of(tmp_path, steps - 1, "replies.0-1")}
    for row in verdicts:
        told = "" if source == "none" else f"Video description: {row['context']} "
        assert asked[row["id"]].startswith(f"{told}Question: {row['prompt']} Response 1: ")
    if source in ("none", "oracle"):
        assert not list(tmp_path.glob("rounds/*/contexts*"))
        assert [row["context"] for row in verdicts] == [
            None if source == "none" else true_caption(row) for row in verdicts
        ]
        return
    first = {row["key"]: row["context"] for row in rows_of(tmp_path, 0, "contexts")}
    own = {row["key"]: first[row["key"]] == row["context"] for row in verdicts}
    assert list(own.values()) == [source == "stale"] * 2 and len(set(first.values())) == 2


class Writes(DPOModule):
    """Judges by the alphabet, in words."""

    def candidates(self, batch, *args):
        rows = super().candidates(batch, *args)
        for row in rows:
            if (texts := re.search("Response 1: (.*) Response 2: (.*) Which", row["prompt"])) is not None:
                row["response"] = f"On reflection, my choice is response {1 + (texts[1] > texts[2])}!"
        return rows


def test_a_policy_that_writes_its_verdicts_is_parsed(world, tmp_path):
    fit(world, tmp_path, make(Writes), callback=resampler(by="text"), steps=1)
    for row in rows_of(tmp_path, 0, "verdicts.0-1"):
        first = 1 + (row["answers"][0] > row["answers"][1])
        assert row["choices"] == [first, first] and row["scores"] is None
        assert row["raw"] == [f"On reflection, my choice is response {n}!" for n in (first, 3 - first)]


class First(DPOModule):
    """Always prefers what stands first."""

    def choices(self, batch):
        return [row | {"option_logps": [-0.1, -2.0], "option_tokens": [5, 5]} for row in super().choices(batch)]


def test_a_judge_that_goes_by_the_place_is_refused_with_its_bias(world, tmp_path):
    message = r"0 pairs are fewer than min_pairs \(1\): .*'inconsistent': 2.* first place in 100% of both orders"
    with pytest.raises(ValueError, match=message):
        fit(world, tmp_path, make(First))
    assert [row["reason"] for row in rows_of(tmp_path, 0, "verdicts.0-1")] == ["inconsistent"] * 2


def test_fewer_pairs_than_asked_for_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match=r"[012] pairs are fewer than min_pairs \(3\)"):
        fit(world, tmp_path, callback=resampler(judge=RandomJudge(), context="none", min_pairs=3))


def test_previous_contexts_that_are_gone_stop_the_run(straight, world, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    ckpt, path = tmp_path / "steps" / "step=1.ckpt", tmp_path / "rounds" / "1" / "contexts.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n")
    lost = json.loads(lines[1])["key"]
    with pytest.raises(ValueError, match=f"rounds/1/contexts.jsonl holds no context of video '{lost}'"):
        fit(world, tmp_path, ckpt=ckpt)
    path.unlink()
    with pytest.raises(ValueError, match=r"rounds/1/contexts.jsonl is missing"):
        fit(world, tmp_path, ckpt=ckpt)


def test_videos_that_no_iteration_asked_about_begin_anew(world, tmp_path):
    data = make_data(world, candidates=Source(str(world), limit=3), prompts_per_round=2)
    fit(world, tmp_path, data=data, callback=resampler(judge=RandomJudge()), steps=2)
    keys = [{row["key"] for row in rows_of(tmp_path, k, "verdicts.0-1")} for k in range(2)]
    assert len(keys[0]) == len(keys[1]) == 2 and len(keys[0] & keys[1]) == 1
    for row in rows_of(tmp_path, 1, "verdicts.0-1"):
        assert (row["context_prev"] is None) == (row["key"] not in keys[0])
    assert {row["key"] for row in rows_of(tmp_path, 1, "contexts")} == keys[0] | keys[1]


def test_a_context_longer_than_the_model_takes_is_refused(world, tmp_path):
    callback = resampler(context="oracle", oracle=lambda record: "red " * 5000)
    with pytest.raises(ValueError, match=r"a row of \d+ tokens is longer than the model's 4096 positions"):
        fit(world, tmp_path, callback=callback)


def test_the_whole_language_model_learns_and_each_video_is_encoded_once(world, tmp_path, monkeypatch):
    encoded, put = [], TensorStore.put
    monkeypatch.setattr(TensorStore, "put", lambda self, key, states: encoded.append(key) or put(self, key, states))
    whole = {"tuning": "language_model", "lora": None, "feature_cache": str(tmp_path / "features")}
    module, seen, _ = fit(world, tmp_path, make(**whole), boundary=ReferenceRefresh(), steps=2)
    assert len(encoded) == 2  # videos; answers, contexts, verdicts and training of both iterations
    assert [{row.rpartition("/")[2] for row in batch} for batch in seen] == [{"round-0"}, {"round-1"}]
    first, second = (rows_of(tmp_path, k, "candidates.0-1")[0]["model"]["reference"] for k in range(2))
    assert first != second  # the reference is the policy at the start of each iteration
    assert module.reference_hash() not in (first, second)


def test_what_cannot_work_is_refused_at_construction():
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"min_pairs": 0}):
        with pytest.raises(ValueError, match="needs temperature > 0, top_p in"):
            SelfRetrospectiveResampler(**wrong)
    with pytest.raises(ValueError, match="context must be one of own, none, stale, other, oracle, got 'fresh'"):
        SelfRetrospectiveResampler(context="fresh")
    with pytest.raises(ValueError, match="by must be likelihood or text"):
        SelfRetrospectiveResampler(by="dice")


def test_two_ranks_judge_and_learn_what_one_rank_does(world, tmp_path):
    script = Path(retrospection_run.__file__)
    subprocess.run([sys.executable, str(script), str(world), str(tmp_path / "2"), "2"], check=True, timeout=600)
    retrospection_run.main(world, tmp_path / "1", 1)
    for k in range(2):
        one = rows_of(tmp_path / "1", k, "verdicts.0-1")
        two = [row for rank in range(2) for row in rows_of(tmp_path / "2", k, f"verdicts.{rank}-2")]
        names = ("id", "context", "context_prev", "answers", "choices", "reason")
        judged = [sorted([row[name] for name in names] for row in rows) for rows in (one, two)]
        assert judged[0] == judged[1]
        contexts = [{row["key"]: row["context"] for row in rows_of(tmp_path / n, k, "contexts")} for n in "12"]
        assert contexts[0] == contexts[1] and len(contexts[0]) == 4


def test_both_orders_stand_in_one_batch_where_they_share_their_video(world):
    data = make_data(world)
    keys = [json.loads(line)["key"] for line in (world / "captions.jsonl").read_text().splitlines()][::2][:3]
    meta = {"options": ["one", "two"]}
    rows = [
        {"key": key, "id": f"{key}/order-{order}", "prompt": order, "meta": meta, "ground_truth": "one"}
        for key in keys
        for order in ("12", "21")
    ]
    options = {"questions": True, "together": 2}  # and eval_batch_size 1
    ids = [row["id"] for row in rows]
    batches = list(data.prompt_loader(rows, **options))
    assert [[record["id"] for record in batch["records"]] for batch in batches] == [ids[:2], ids[2:4], ids[4:]]
    assert all(batch["video_index"].tolist() == [0, 0, 0, 0] for batch in batches)
    again = data.prompt_loader(rows, done=ids[:3], rank=1, world=2, **options)  # half a batch is none
    assert [[record["id"] for record in batch["records"]] for batch in again] == [ids[2:4]]
    assert data.prompt_loader(rows, done=ids, **options) == []
