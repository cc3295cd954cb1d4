"""A curriculum: which pairs each round trains on, for how many steps, what is logged, and the same after a cut."""

import json
import pathlib
import subprocess
import sys

import curriculum_run
import pytest
import torch
from curriculum_run import NAME, make_data, make_trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.callbacks import CurriculumScheduler, LoRAMergeReinit, PreferenceResampler
from lit_vpo.callbacks.curriculum import order_of
from lit_vpo.datamodules import OverlayShare, PreferenceDataModule, RoundPreferenceDataModule, Source, write_overlay
from lit_vpo.lora import LoRASettings
from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.modules import DPOModule, SFTModule
from lit_vpo.preferences.judges import ExactJudge

COUNTS = {16: 8, 4: 2, 2: 6}  # pairs of each r: 4, 1 and 3 batches of two, so 2, 1 and 2 optimizer steps of two batches
DIVISORS = list(COUNTS)
KINDS = ("drop", "reverse")


@pytest.fixture(scope="module")
def rows(world):
    return curriculum_run.rows_of(world, COUNTS, KINDS)


@pytest.fixture
def data(world, rows, tmp_path):
    """A data module over the pairs; `rows` and `val` replace them."""

    def write(rows=rows, val=None, **more):
        write_overlay(tmp_path / "train.jsonl", rows)
        if val is not None:
            write_overlay(tmp_path / "val.jsonl", val)
            more["val"] = Source(str(world), str(tmp_path / "val.jsonl"))
        return make_data(world, **{"train": Source(str(world), str(tmp_path / "train.jsonl")), "batch_size": 2} | more)

    return write


class Seen(DPOModule):
    """Notes what it is trained on instead of computing it; a pair's margin is what its id says."""

    def training_step(self, batch, batch_idx):
        records = batch["records"]
        self.seen.append((self.trainer.global_step, self.round, [(record["id"], record["r"]) for record in records]))
        nothing = sum(0.0 * p.sum() for p in self.parameters() if p.requires_grad)
        return {"loss": nothing, "margins": torch.tensor([margin_of(record) for record in records])}

    def evaluate_objective(self, batch, stage):
        return {"margins": torch.tensor([margin_of(record) for record in batch["records"]])}

    def margins(self, batch):
        self.measured.append((self.trainer.global_step, self.round, [record["r"] for record in batch["records"]]))
        return torch.tensor([self.skill(record) for record in batch["records"]])

    def skill(self, record):
        return 1.0

    def log_dict(self, values, **more):
        self.logged.append((self.trainer.global_step, {name: float(value) for name, value in values.items()}))
        super().log_dict(values, **more)

    def on_before_optimizer_step(self, optimizer):
        self.rates.append((self.round, optimizer.param_groups[0]["lr"], len(optimizer.state)))

    @property
    def divisors_by_step(self):
        """The divisors of each optimizer step's pairs."""
        steps = {}
        for step, _, pairs in self.seen:
            steps.setdefault(step, set()).update(r for _, r in pairs)
        return list(steps.values())


def make(cls=Seen, **more):
    module = cls(NAME, lora=LoRASettings(r=2, alpha=4), check_video=False, **more)
    module.seen, module.logged, module.rates, module.measured = [], [], [], []
    return module


def margin_of(record):
    return float(int(record["id"].rpartition("-")[2]) % 5 - 2)


def fit(tmp_path, data, curriculum, module=None, callbacks=(), ckpt=None, **more):
    module = module or make()
    trainer = make_trainer(tmp_path, [curriculum, LoRAMergeReinit(), *callbacks], accumulate_grad_batches=2, **more)
    trainer.fit(module, data, ckpt_path=ckpt)
    return module, trainer


def curriculum(pacing="staged", **more):
    return CurriculumScheduler(pacing, **{"divisors": DIVISORS} | more)


def test_orders_by_hand():
    assert order_of("staged", [16, 8, 4, 2], 0) == order_of("none", [16, 8, 4, 2], 0) == [16, 8, 4, 2]
    assert order_of("reverse", [16, 8, 4, 2], 0) == [2, 4, 8, 16]
    drawn = [order_of("random", [16, 8, 4, 2], seed) for seed in range(30)]
    assert drawn[3] == order_of("random", [16, 8, 4, 2], 3) and len({tuple(order) for order in drawn}) > 5
    assert all(sorted(order) == [2, 4, 8, 16] and order != [16, 8, 4, 2] for order in drawn)


@pytest.mark.parametrize("max_steps, divisors", [(-1, DIVISORS), (5, None)])
def test_a_stage_is_a_pass_over_the_pairs_of_one_divisor_and_a_round_of_its_own(data, tmp_path, max_steps, divisors):
    scheduler = curriculum(divisors=divisors)  # null: all that the pairs have
    module, trainer = fit(tmp_path, data(), scheduler, max_steps=max_steps)
    assert scheduler.round_steps == [2, 1, 2] and trainer.global_step == trainer.max_steps == 5
    assert module.divisors_by_step == [{16}, {16}, {4}, {2}, {2}]
    assert [round_index for _, round_index, _ in module.seen] == [0] * 4 + [1] + [2] * 3
    assert (
        module.round == 3 and len(module.ledger.state()) == 3
    )  # as with rounds of one length: the last one merges too
    fresh = [(done, size == 0) for done, _, size in module.rates]  # the optimizer too
    assert fresh == [(0, True), (0, False), (1, True), (2, True), (2, False)]


@pytest.mark.parametrize("pacing", ["staged", "reverse", "random", "none"])
def test_every_arm_sees_each_pair_once_in_as_many_steps(data, rows, tmp_path, pacing):
    module, trainer = fit(tmp_path, data(), curriculum(pacing), max_steps=5)
    pairs = [pair for *_, pairs in module.seen for pair in pairs]
    assert sorted(pairs) == sorted((row["id"], row["r"]) for row in rows)
    assert trainer.global_step == 5 and module.round == 3
    if pacing == "none":
        assert len(module.divisors_by_step[0]) > 1
        assert [round_index for _, round_index, _ in module.seen] == [0] * 4 + [1] + [2] * 3
    else:
        order = {"staged": DIVISORS, "reverse": DIVISORS[::-1]}.get(pacing) or order_of("random", DIVISORS, 0)
        assert module.divisors_by_step == [{r} for r in order for _ in range({16: 2, 4: 1, 2: 2}[r])]


def test_steps_of_a_stage_go_through_its_pairs_again_and_belong_to_the_divisor(data, tmp_path):
    module, _ = fit(tmp_path, data(), curriculum("reverse", steps=[1, 3, 2]), max_steps=-1)
    assert module.divisors_by_step == [{2}, {2}, {4}, {4}, {4}, {16}]
    assert sorted({pair for *_, pairs in module.seen[3:6] for pair in pairs}) == sorted(
        {pair for *_, pairs in module.seen[3:4] for pair in pairs}
    )  # a batch is all pairs of r = 4
    uniform = curriculum(steps=2)
    module, trainer = fit(tmp_path, data(), uniform, max_steps=6)
    assert uniform.round_steps == [2, 2, 2] and module.divisors_by_step == [{r} for r in (16, 16, 4, 4, 2, 2)]
    twice = curriculum(epochs=2)
    module, trainer = fit(tmp_path, data(), twice, max_steps=-1)
    assert twice.round_steps == [4, 2, 4] and trainer.global_step == 10
    first = [pair for step, _, pairs in module.seen for pair in pairs if step < 4]
    assert len(first) == 2 * len(set(first)) == 16 and first[:8] != first[8:]  # a new order in the second pass


def test_the_learning_rate_rises_and_falls_in_every_stage(data, tmp_path):
    settings = {"optimizer": lambda params: torch.optim.SGD(params, lr=2.0), "warmup_steps": 1, "schedule": "linear"}
    module, _ = fit(tmp_path, data(), curriculum(steps=[2, 3, 2]), make(**settings), max_steps=-1)
    assert [rate for _, rate, _ in module.rates] == [2.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"warmup_steps \(1\) must be less than .*every round, got 1"):
        fit(tmp_path, data(), curriculum(), make(**settings), max_steps=-1)


def by_hand(pairs, total):
    """What should be logged of some (margin, r, kind)."""
    values = {}
    names = {f"r{r}" for _, r, _ in pairs} | {f"r{r}/{kind}" for _, r, kind in pairs}
    for name in names:
        own = [margin for margin, r, kind in pairs if name in (f"r{r}", f"r{r}/{kind}")]
        values[f"{name}/share"] = len(own) / total
        values[f"{name}/rewards/accuracies"] = sum(margin > 0 for margin in own) / len(own)
        values[f"{name}/rewards/margins"] = sum(own) / len(own)
    return values


def test_what_is_logged_is_worked_by_hand_from_records_and_margins(data, rows, tmp_path):
    record_of = {row["id"]: row for row in rows}
    bare = [{k: v for k, v in row.items() if k != "r"} | {"id": f"bare-{n}"} for n, row in enumerate(rows[:2])]
    module, _ = fit(tmp_path, data(val=rows + bare), curriculum(), max_steps=-1, log_every_n_steps=2)
    logged = [(step, values) for step, values in module.logged if "curriculum/difficulty" in values]
    assert [step for step, _ in logged] == [2, 4]  # of 5 steps
    for (step, values), only_r16 in zip(logged, (True, False), strict=True):
        ids = [pair for at, _, pairs in module.seen if step - 2 <= at < step for pair, _ in pairs]
        pairs = [(margin_of(row), row["r"], row["perturbation"]["kind"]) for row in (record_of[name] for name in ids)]
        expected = {f"curriculum/{name}": value for name, value in by_hand(pairs, len(pairs)).items()}
        assert {name: values[name] for name in expected} == pytest.approx(expected)
        assert all(values[name] == 0 for name in values.keys() - expected.keys() if name.endswith("/share"))
        shares = [values["curriculum/r16/share"], values["curriculum/r4/share"], values["curriculum/r2/share"]]
        assert values["curriculum/difficulty"] == pytest.approx(shares[1] * 2 / 3 + shares[2])
        assert shares[0] == only_r16 and sum(shares) == pytest.approx(1)
    validated = [values for _, values in module.logged if "val/curriculum/difficulty" in values]
    pairs = [(margin_of(row), row["r"], row["perturbation"]["kind"]) for row in rows]
    expected = {f"val/curriculum/{name}": value for name, value in by_hand(pairs, 16).items()}
    assert validated and all(
        values == pytest.approx(expected | {"val/curriculum/difficulty": (2 * 2 / 3 + 6) / 16}) for values in validated
    )


class Learner(Seen):
    """Tells three of the four held-out pairs of a stage apart from the third round on, and all of them with a skill."""

    def skill(self, record):
        return 1.0 if self.round >= 2 and int(record["id"].rpartition("-")[2]) % 4 else -1.0


@pytest.mark.parametrize(
    "settings, by_round",
    [
        ({"bound": 0.75}, [16, 16, 16, 4, 2]),  # 0, 0, 3/4: the bound is met when round 2 has ended, then in every one
        ({"bound": 0.76}, [16, 16, 16, 16, 4]),  # never met: four rounds at most
        ({"bound": 0.76, "max_rounds": 1}, [16, 4, 2, 2, 2]),
    ],
)
def test_competence_goes_on_exactly_when_the_bound_is_met(data, rows, tmp_path, settings, by_round):
    val = [
        row | {"id": f"{row['r']}-{n}"} for r in DIVISORS for n, row in enumerate([x for x in rows if x["r"] == r] * 2)
    ]
    val = [row for row in val if int(row["id"].rpartition("-")[2]) < 4]
    scheduler = curriculum("competence", steps=1, **settings)
    module, trainer = fit(tmp_path, data(val=val), scheduler, make(Learner), max_steps=5)
    assert module.divisors_by_step == [{r} for r in by_round] and module.round == 5
    # after a round's last step, before its boundary: the policy is compared with the round's own reference
    assert module.measured == [(n + 1, n, [r] * 2) for n, r in enumerate(by_round) for _ in range(2)]
    assert float(trainer.callback_metrics["curriculum/held_out_accuracy"]) == 0.75


def test_competence_goes_on_exactly_after_a_cut(data, rows, tmp_path):
    val = [row for row in rows if int(row["id"].rpartition("-")[2]) % 4 or row["r"] != 16]

    def run(ckpt=None):
        scheduler = curriculum("competence", steps=1, bound=0.9)
        saver = ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
        more = {"max_steps": 6, "callbacks": [saver], "ckpt": ckpt}
        return fit(tmp_path, data(val=val), scheduler, make(Learner), **more)[0]

    straight = run()
    assert straight.divisors_by_step == [{r} for r in (16, 16, 16, 4, 4, 4)]
    for step in (1, 2, 3, 4, 5):
        rest = run(tmp_path / "steps" / f"step={step}.ckpt")
        assert rest.seen == [each for each in straight.seen if each[0] >= step]
        assert rest.measured == [each for each in straight.measured if each[0] > step]


def real(**more):
    settings = {"optimizer": lambda params: torch.optim.AdamW(params, lr=1e-2), "check_video": False} | more
    return DPOModule(NAME, lora=LoRASettings(r=4, alpha=8), **settings)


@pytest.fixture(scope="module")
def straight(world, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    write_overlay(folder / "train.jsonl", rows)
    return folder, *run_real(world, folder)


def run_real(world, folder, ckpt=None, pacing="staged", train=None, **more):
    seen, module = [], real()
    original = module.training_step

    def spy(batch, batch_idx):
        seen.append([record["id"] for record in batch["records"]])
        return original(batch, batch_idx)

    module.training_step = spy
    saver = ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    data = make_data(world, train=Source(str(world), str((train or folder) / "train.jsonl")), batch_size=2)
    fit(folder, data, curriculum(pacing, **more), module, [saver], ckpt, max_steps=-1)
    del module.training_step
    return module, seen


def test_cut_at_every_step_and_resumed_equals_straight(straight, world, tmp_path):
    folder, module, seen = straight
    expected = {name: p.detach() for name, p in module.named_parameters()}
    for step, batches in {1: 2, 2: 4, 3: 5, 4: 7}.items():
        path = folder / "steps" / f"step={step}.ckpt"
        torch.load(path, weights_only=True)
        resumed, rest = run_real(world, tmp_path / str(step), path, train=folder)
        assert rest == seen[batches:] and resumed.round == 3
        assert all(torch.equal(p, expected[name]) for name, p in resumed.named_parameters()), step


def test_another_curriculum_on_resuming_is_refused_by_name(straight, world, tmp_path):
    folder = straight[0]
    path = folder / "steps" / "step=2.ckpt"
    for more, name in (
        ({"pacing": "reverse"}, "pacing 'staged', this run's has 'reverse'"),
        ({"steps": 2}, r"round_steps \[2, 1, 2\], this run's has \[2, 2, 2\]"),
        ({"divisors": [4, 16, 2]}, r"divisors \[16, 4, 2\]"),
    ):
        with pytest.raises(ValueError, match=f"cannot resume: the checkpoint's curriculum has {name}"):
            run_real(world, tmp_path, path, train=folder, **more)


def test_a_checkpoint_of_a_curriculum_is_validated_without_one(straight, world):
    folder, module, _ = straight
    source = Source(str(world), str(folder / "train.jsonl"), 4)
    logps = []
    for each, ckpt in ((module, None), (real(), folder / "steps" / "step=5.ckpt")):
        trainer = make_trainer(folder, [], max_steps=-1)
        data = PreferenceDataModule(NAME, val=source, num_frames=2, size=32, batch_size=2)
        trainer.validate(each, data, ckpt_path=ckpt, verbose=False)
        logps.append(float(trainer.callback_metrics["val/logps/chosen"]))  # merged, all margins are 0
    assert logps[0] == logps[1]


def test_data_that_make_no_stages_are_refused_by_name(data, rows, tmp_path, world):
    def refused(message, data, scheduler=None, max_steps=-1):
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, data, scheduler or curriculum(), max_steps=max_steps)

    there = "data.train has 8 of r = 16, 2 of r = 4, 6 of r = 2"
    refused(f"the stage of r = 8 is empty: {there}", data(), curriculum(divisors=[16, 8, 4, 2]))
    refused(f"pairs of r = 16, r = 2 stand in no stage: {there}", data(), curriculum(divisors=[4]))
    bare = [row if n != 3 else {k: v for k, v in row.items() if k != "r"} for n, row in enumerate(rows)]
    refused(f"row {rows[3]['id']} has no r", data(bare))
    shares = Source(str(world), [OverlayShare(str(tmp_path / "train.jsonl"), 0.5)])
    refused("leave the weights of data.train.overlay out", data(train=shares))
    competence = curriculum("competence", steps=1)
    refused("data.val has no pairs of r = 16", data(), competence, 5)
    refused("data.val has no pairs of r = 4", data(val=[row for row in rows if row["r"] != 4]), competence, 5)
    pairs = Source(str(world), str(tmp_path / "train.jsonl"))
    refused("use CurriculumDataModule", PreferenceDataModule(NAME, train=pairs, num_frames=2, size=32))
    with pytest.raises(ValueError, match="add the CurriculumScheduler callback, or take PreferenceDataModule"):
        make_trainer(tmp_path, [], max_steps=1).fit(make(), data())


def test_what_cannot_go_together_is_refused_before_training(data, rows, tmp_path, world):
    for steps in (4, 6):
        with pytest.raises(ValueError, match=rf"2 \+ 1 \+ 2 = 5 optimizer steps, trainer.max_steps is {steps}"):
            fit(tmp_path, data(), curriculum(), max_steps=steps)
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        fit(tmp_path, data(val=rows), curriculum("competence", steps=1), max_steps=-1)
    with pytest.raises(ValueError, match=r"a callback plans rounds of \[2, 1, 2\] steps, .*round_steps: 2; leave out"):
        fit(tmp_path, data(), curriculum(), make(round_steps=2), max_steps=-1)
    with pytest.raises(ValueError, match="SFTModule has none"):
        fit(tmp_path, data(), curriculum(), SFTModule(NAME), max_steps=-1)
    judge = ExactJudge(lambda text, record: CaptionCounts(1, 1, 0, 0, 0, 1, 1, 0, 1, 0))
    pairs = Source(str(world), str(tmp_path / "train.jsonl"))
    sampled = RoundPreferenceDataModule(NAME, train=pairs, candidates=Source(str(world)), num_frames=2, size=32)
    for callbacks in ([curriculum(), PreferenceResampler(judge)], [PreferenceResampler(judge), curriculum()]):
        with pytest.raises(ValueError, match="CurriculumScheduler and PreferenceResampler both say"):
            make_trainer(tmp_path, callbacks, max_steps=5).fit(make(), sampled)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"pacing": "hard"}, "pacing must be one of staged, competence, none, reverse, random, got 'hard'"),
        ({"divisors": []}, "divisors must be different numbers >= 2"),
        ({"divisors": [4, 4]}, "divisors must be different numbers >= 2"),
        ({"divisors": [4, 1]}, "divisors must be different numbers >= 2"),
        ({"pacing": "random", "divisors": [4]}, "random needs two divisors"),
        ({"steps": [1, 2]}, r"one for each of \[16, 4, 2\], got \[1, 2\]"),
        ({"steps": [1, 2], "divisors": None}, "needs divisors that it stands for"),
        ({"steps": 0}, "needs steps, epochs and max_rounds >= 1"),
        ({"epochs": 0}, "needs steps, epochs and max_rounds >= 1"),
        ({"bound": 0.0}, r"a bound in \(0, 1\]"),
        ({"pacing": "competence"}, "competence needs the steps of a round as one number, got None"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        curriculum(**settings)


@pytest.mark.slow
def test_two_ranks_agree_and_learn_what_one_rank_learns(world, tmp_path):
    rows = curriculum_run.rows_of(world, {16: 4, 4: 2, 2: 4}, KINDS)
    write_overlay(tmp_path / "train.jsonl", rows)
    script, learned = pathlib.Path(curriculum_run.__file__), []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        words = [str(script), str(ranks), str(world), str(tmp_path / "train.jsonl"), str(out)]
        subprocess.run([sys.executable, *words], check=True, timeout=600, cwd=tmp_path)
        learned.append(torch.load(out, weights_only=True))
    one, two = learned
    assert one["round"] == two["round"] == 3 and len(set(two["hashes"])) == 1
    assert [sorted(step) for step in one["seen"]] == [sorted(step) for step in two["seen"]]
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, atol=1e-5, rtol=1e-5)
    assert json.dumps(one["logged"]["shares"]) == json.dumps(two["logged"]["shares"])
    torch.testing.assert_close(one["logged"]["margins"], two["logged"]["margins"], atol=1e-5, rtol=1e-5)
