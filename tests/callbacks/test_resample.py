"""New pairs at a round's end: from the policy of that moment, on disk before training goes on, the same after a cut."""

import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.callbacks import LoRAMergeReinit, PreferenceResampler
from lit_vpo.cli import main
from lit_vpo.datamodules import (
    OverlayShare,
    PreferenceDataModule,
    QuestionMix,
    RoundPreferenceDataModule,
    Source,
    write_overlay,
)
from lit_vpo.datamodules.motion_world import score_caption
from lit_vpo.lora import LoRASettings
from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.modules import DPOModule
from lit_vpo.preferences.judges import ExactJudge

NAME = "motion_world_base"  # untrained models do not end their answers


def by_length(text, record):
    return CaptionCounts(100, len(text) % 100, 0, 0, 0, 1, 1, 0, 1, 0)


class Cut(Exception):
    """Stands for a kill."""


class CutJudge(ExactJudge):
    """Dies at its first question."""

    def score(self, requests):
        raise Cut


def make(lr=1e-2):
    return DPOModule(
        NAME,
        lora=LoRASettings(r=4, alpha=8),
        round_steps=2,
        max_new_tokens=60,
        check_video=False,
        optimizer=lambda params: torch.optim.AdamW(params, lr=lr),
    )


def make_data(world, **more):
    pairs = Source(str(world), str(world / "pairs.jsonl"), 6)
    options = {"train": pairs, "candidates": Source(str(world)), "prompts_per_round": 4}
    options |= {"num_frames": 4, "batch_size": 2, "eval_batch_size": 2, "world_multiple": 1}
    return RoundPreferenceDataModule(NAME, **options | more)


def resampler(judge=None, **more):
    return PreferenceResampler(judge or ExactJudge(by_length), 3, temperature=2.0, margin=0.0, **more)


def fit(world, folder, module=None, data=None, callbacks=(), steps=6, ckpt=None, **more):
    module, data = module or make(), data or make_data(world)
    saver = ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    seen = []

    original = module.training_step

    def spy(batch, batch_idx):
        seen.append([record["id"] for record in batch["records"]])
        return original(batch, batch_idx)

    module.training_step = spy
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    quiet |= {"default_root_dir": folder, "max_epochs": -1, "max_steps": steps, "num_sanity_val_steps": 0}
    run = Trainer(**quiet, callbacks=[LoRAMergeReinit(), *(callbacks or [resampler()]), saver], **more)
    try:
        run.fit(module, data, ckpt_path=ckpt)
    finally:
        del module.training_step
    return module, seen, run


def pairs_of(folder, round_index):
    path = folder / "rounds" / str(round_index) / "pairs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, *fit(world, folder)


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_each_round_trains_on_pairs_of_its_own_policy(straight):
    folder, _, seen, run = straight
    first, second = pairs_of(folder, 1), pairs_of(folder, 2)
    assert not (folder / "rounds" / "3").exists()  # nobody would train on them
    assert {row for batch in seen[2:4] for row in batch} <= {pair["id"] for pair in first}
    assert {row for batch in seen[4:] for row in batch} <= {pair["id"] for pair in second}
    assert all(not row.endswith(("round-1", "round-2")) for batch in seen[:2] for row in batch)
    assert [pair["round"] for pair in first + second] == [1] * len(first) + [2] * len(second)
    assert {pair["key"] for pair in first}.isdisjoint(pair["key"] for pair in second)  # the next four prompts
    models = [{json.dumps(pair["meta"]["model"], sort_keys=True) for pair in pairs} for pairs in (first, second)]
    assert [len(model) for model in models] == [1, 1] and models[0] != models[1]
    for pair in first:
        assert pair["scores"]["chosen"] == len(pair["chosen"]) % 100 / 100 <= pair["scores"]["rejected"]
        assert pair["ground_truth"] and pair["meta"]["judge"] == ExactJudge(by_length).identity
    assert run.callback_metrics["round/pairs"] == len(second)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_cut_and_resumed_equals_straight(straight, world, tmp_path, step):
    folder, module, seen, _ = straight
    ckpt = folder / "steps" / f"step={step}.ckpt"
    resumed, rest, _ = fit(world, tmp_path, ckpt=ckpt)
    assert rest == seen[step:]
    expected = weights(module)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_cut_while_it_judges_and_while_it_samples(straight, world, tmp_path, monkeypatch):
    _, module, seen, _ = straight
    with pytest.raises(Cut):
        fit(world, tmp_path, callbacks=[resampler(CutJudge(by_length))])
    candidates = tmp_path / "rounds" / "1" / "candidates.0-1.jsonl"
    lines = candidates.read_text().splitlines(keepends=True)
    assert len(lines) == 4 * 3
    candidates.write_text("".join(lines[:11]) + lines[11][:20])  # the kill came in the second batch's last candidate
    asked, original = [], DPOModule.candidates

    def spy(self, batch, *args):
        asked.append((self.round, [record["id"] for record in batch["records"]]))
        return original(self, batch, *args)

    monkeypatch.setattr(DPOModule, "candidates", spy)
    resumed, rest, _ = fit(world, tmp_path, ckpt=tmp_path / "steps" / "step=1.ckpt")
    assert [len(ids) for round_index, ids in asked if round_index == 1] == [2]
    assert rest == seen[1:]
    expected = weights(module)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_prompts_of_both_scopes_are_judged_each_by_its_own_events(world, tmp_path):
    overlays = [OverlayShare(str(world / "captions.jsonl"), 0.5), OverlayShare(str(world / "intervals.jsonl"))]
    data = make_data(world, candidates=Source(str(world), overlays), prompts_per_round=6)
    judge = ExactJudge(score_caption)
    fit(world, tmp_path, data=data, callbacks=[resampler(judge)], steps=5)
    rows = [json.loads(line) for line in (tmp_path / "rounds/1/candidates.0-1.jsonl").read_text().splitlines()]
    scopes = [row["meta"]["scope"] for row in rows[::3]]
    assert scopes.count("video") == 2 and scopes.count("interval") == 4  # as the weights say
    pairs = pairs_of(tmp_path, 1)
    assert {pair["meta"]["scope"] for pair in pairs} == {"video", "interval"}
    asked = {row["prompt_id"]: row for row in rows}
    for pair in pairs:
        record = asked[pair["id"].removesuffix("/round-1")]
        c = score_caption(pair["chosen"], record)
        assert pair["scores"]["chosen"] == (c.missed + c.incorrect + c.hallucinated) / c.num_events
        # the ground truth beside an interval's pair is of the interval too
        truth = score_caption(pair["ground_truth"], record)
        assert truth.missed == truth.incorrect == truth.hallucinated == 0 < truth.num_events
    later = {row["id"] for batch in data.candidate_loader(2) for row in batch["records"]}
    assert len(later) == 6 and later.isdisjoint(row["prompt_id"] for row in rows)


@pytest.fixture(scope="module")
def question_pairs(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "pairs.jsonl"
    main(["pairs", "questions", str(world / "questions.jsonl"), "--out", str(path)])
    return str(path)


def test_questions_come_in_where_the_schedule_says_and_a_cut_run_sees_the_same(world, tmp_path, question_pairs):
    def data():
        return make_data(world, questions=QuestionMix(question_pairs, share=0.5, from_round=2))

    module, seen, _ = fit(world, tmp_path / "straight", data=data(), steps=7)
    captions, folder = pairs_of(tmp_path / "straight", 2), tmp_path / "straight" / "rounds"
    assert not (folder / "1" / "mixed.jsonl").exists()
    mixed = [json.loads(line) for line in (folder / "2" / "mixed.jsonl").read_text().splitlines()]
    questions = mixed[len(captions) :]
    assert mixed[: len(captions)] == captions and len(questions) == len(captions)
    for pair in questions:
        assert (
            pair["chosen"] == pair["ground_truth"] != pair["rejected"] and pair["rejected"] in pair["meta"]["options"]
        )
        assert pair["id"].endswith("/pair/round-2") and pair["round"] == 2
    trained = {row for batch in seen[4:6] for row in batch}
    assert trained <= {pair["id"] for pair in mixed} and trained & {pair["id"] for pair in questions}
    for step in (3, 5):
        ckpt = tmp_path / "straight" / "steps" / f"step={step}.ckpt"
        resumed, rest, _ = fit(world, tmp_path / f"cut-{step}", data=data(), steps=7, ckpt=ckpt)
        assert rest == seen[step:]
        expected = weights(module)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_questions_that_are_no_pairs_are_refused_before_training(world, tmp_path, question_pairs):
    asked = QuestionMix(str(world / "questions.jsonl"))
    with pytest.raises(ValueError, match=r"data\.questions, row .*empty chosen; .*pairs questions"):
        fit(world, tmp_path, data=make_data(world, questions=asked))
    rows = [json.loads(line) for line in Path(question_pairs).read_text().splitlines()]
    write_overlay(tmp_path / "bare.jsonl", [{**row, "ground_truth": None} for row in rows])
    bare = QuestionMix(str(tmp_path / "bare.jsonl"))
    with pytest.raises(ValueError, match="empty ground_truth"):
        fit(world, tmp_path, data=make_data(world, questions=bare, with_ground_truth=True))
    with pytest.raises(ValueError, match="does not exist"):
        fit(world, tmp_path, data=make_data(world, questions=QuestionMix(str(tmp_path / "none.jsonl"))))


def test_what_cannot_work_is_refused_before_training(world, tmp_path):
    with pytest.raises(ValueError, match="use RoundPreferenceDataModule with `candidates`"):
        pairs = Source(str(world), str(world / "pairs.jsonl"), 6)
        fit(world, tmp_path, data=PreferenceDataModule(NAME, train=pairs, num_frames=4))
    with pytest.raises(ValueError, match=r"resampling needs data\.candidates"):
        fit(world, tmp_path, data=make_data(world, candidates=None))
    with pytest.raises(ValueError, match="prompts_per_round must be >= 1"):
        make_data(world, prompts_per_round=0)
    for wrong in ({"num_candidates": 1}, {"temperature": 0.0}, {"top_p": 0.0}, {"margin": -1.0}):
        with pytest.raises(ValueError, match="PreferenceResampler needs num_candidates >= 2"):
            PreferenceResampler(ExactJudge(by_length), **wrong)


def test_pairs_of_another_policy_are_refused_before_training(world, tmp_path):
    rows = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    own = make()
    own.configure_model()

    def written_by(digest):
        write_overlay(tmp_path / "pairs.jsonl", [r | {"meta": {"model": {"name": "x", "hash": digest}}} for r in rows])
        return make_data(world, train=Source(str(world), str(tmp_path / "pairs.jsonl"), 6), **more)

    more = {}
    assert fit(world, tmp_path / "own", own, written_by(own.policy_hash()), steps=1)[2].global_step == 1
    with pytest.raises(ValueError, match="hold answers of another policy: 6 of x"):
        fit(world, tmp_path / "other", data=written_by("f" * 64), steps=1)
    more = {"other_policy": True}
    straight, _, _ = fit(world, tmp_path / "asked", data=written_by("f" * 64), steps=3)
    # what is asked for at the start is not asked again: later rounds' pairs are the run's own
    fit(world, tmp_path / "asked", straight, written_by("e" * 64), steps=4, ckpt=tmp_path / "asked/steps/step=3.ckpt")


def test_a_round_without_a_pair_stops_and_says_why(world, tmp_path):
    judge = ExactJudge(lambda text, record: CaptionCounts(100, 1, 0, 0, 0, 1, 1, 0, 1, 0))
    with pytest.raises(ValueError, match=r"round 1 has no pair: \{'margin': 4\}"):
        fit(world, tmp_path, callbacks=[PreferenceResampler(judge, 2, temperature=2.0, margin=0.05)])
