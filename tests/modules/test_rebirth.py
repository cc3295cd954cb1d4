"""Teacher and student: one module, two sets of weights, and the captions between them."""

import pytest
import torch

from lit_vpo.callbacks import LoRAMergeReinit
from lit_vpo.lora import LoRASettings
from lit_vpo.models import load_model, weights_hash
from lit_vpo.modules import DPOModule, RebirthModule
from lit_vpo.preferences.captions import caption_records

NAME = "tiny_qwen2_5_vl"
SMALL = LoRASettings(r=4, alpha=8)


def adamw(params):
    return torch.optim.AdamW(params, lr=1e-1)


@pytest.fixture
def policy(make_batch, loader, trainer, tmp_path):
    """Three steps in rounds of two: one merged adapter, one live."""
    module = DPOModule(NAME, lora=SMALL, round_steps=2, check_video=False, optimizer=adamw, max_new_tokens=6)
    run = trainer(max_steps=3, callbacks=[LoRAMergeReinit()])
    run.fit(module, loader([make_batch("preference", NAME, first=2 * n) for n in range(3)]))
    run.save_checkpoint(tmp_path / "dpo.ckpt")
    return module, str(tmp_path / "dpo.ckpt")


def answers(module, trainer, loader, batch):
    return [row["response"] for row in trainer().predict(module, loader([batch]))[0]]


def test_the_teacher_says_what_the_policy_says_and_the_student_begins_from_the_base(
    policy, make_batch, loader, trainer
):
    module, path = policy
    prompts = make_batch("prompt", NAME)
    settings = {"teacher": path, "tuning": "language_model", "max_new_tokens": 6}
    teacher = RebirthModule(NAME, **settings)
    said = answers(teacher, trainer, loader, prompts)
    assert said == answers(module, trainer, loader, prompts)
    base = RebirthModule(NAME, **settings, seed=0)
    trainer().validate(base, loader([make_batch("instruction", NAME)]), verbose=False)
    assert weights_hash(base.net) == weights_hash(load_model(NAME))
    assert weights_hash(teacher.net) != weights_hash(base.net)
    student = RebirthModule(NAME, **settings)
    trainer(max_steps=1).fit(student, loader([make_batch("instruction", NAME)]))
    assert student.base_hash == base.base_hash  # what is frozen; it began from the base
    assert answers(base, trainer, loader, prompts) != said  # a module that was built keeps its weights


def test_a_teacher_of_another_base_is_refused(policy, loader, trainer, make_batch):
    _, path = policy
    with pytest.raises(ValueError, match="was trained on another model"):
        answers(RebirthModule("tiny_qwen2_vl", teacher=path), trainer, loader, make_batch("prompt", "tiny_qwen2_vl"))
    with pytest.raises(ValueError, match="RebirthModule begins from `model` and `adapter`"):
        RebirthModule(NAME, teacher=path, init_from=path)


def test_captions_become_records():
    row = {"id": "a", "key": "k", "prompt": "p", "ground_truth": "old", "response": " new ", "finished": True}
    kept, dropped = caption_records(
        [row | {"model": {"name": "m"}}, row | {"id": "b", "finished": False}, row | {"id": "c", "response": " "}]
    )
    assert kept == [
        {
            "key": "k",
            "id": "a",
            "prompt": "p",
            "ground_truth": "new",
            "mode": "sft",
            "meta": {"model": {"name": "m"}, "replaced": "old"},
        }
    ]
    assert [(row["id"], row["reason"]) for row in dropped] == [("b", "unfinished"), ("c", "empty")]
