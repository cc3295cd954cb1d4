"""Answers: greedy as transformers does it; a sample belongs to its record alone."""

import pytest
import torch

from lit_vpo.lora import LoRASettings
from lit_vpo.modules import SFTModule
from lit_vpo.modules.generation import AddressedSampling, keep_top_p

SMALL = LoRASettings(r=4, alpha=8)


def module(**more):
    built = SFTModule(more.pop("model", "tiny_llava_onevision"), lora=SMALL, max_new_tokens=10, **more)
    built.configure_model()
    return built


@pytest.mark.parametrize("name", ["tiny_llava_onevision", "tiny_qwen2_5_vl"])
def test_greedy_is_transformers_greedy(make_batch, name):
    batch, ours = make_batch("prompt", name), module(model=name)
    text = {k: batch[k] for k in ("input_ids", "attention_mask", "mm_token_type_ids") if k in batch}
    ids = ours.net.generate(**text, **batch["media"], max_new_tokens=10, do_sample=False)
    answers = ours.processor.tokenizer.batch_decode(ids[:, text["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [text for text, _ in ours.generate(batch)] == answers


def test_finished_means_ended_by_itself(make_batch):
    ours = module()
    batch = make_batch("prompt")
    assert [finished for _, finished in ours.generate(batch)] == [False, False]
    eos = ours.processor.tokenizer.eos_token_id
    head = ours.base.lm_head

    def end_after_three(_, inputs, output):
        end_after_three.calls += 1
        output[:] = 0
        output[..., eos if end_after_three.calls == 4 else 100] = 1
        return output

    end_after_three.calls = 0
    head.register_forward_hook(end_after_three)
    answers = ours.generate(batch)
    assert answers == [(ours.processor.tokenizer.decode([100] * 3), True)] * 2


def test_samples_depend_on_seed_and_record_only(make_batch):
    batch = make_batch("prompt", size=4)
    sampled = module(temperature=1.0, top_p=0.9)
    torch.manual_seed(0)
    answers = sampled.generate(batch)
    torch.manual_seed(1)
    assert sampled.generate(batch) == answers
    alone = [sampled.generate(make_batch("prompt", size=4) | rows(batch, i)) for i in range(4)]
    assert [one[0] for one in alone] == answers
    sampled.seed = 1
    assert sampled.generate(batch) != answers


def rows(batch, i):
    media = {k: v[[i]] for k, v in batch["media"].items()}
    per_row = {k: batch[k][[i]] for k in ("input_ids", "attention_mask")}
    return per_row | {"media": media, "video_index": torch.tensor([0]), "records": [batch["records"][i]]}


def test_sampling_follows_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).log_softmax(0)
    count = 4000
    sampler = AddressedSampling([("test", i) for i in range(count)], temperature=2.0, top_p=1.0)
    picks = sampler(torch.zeros(count, 1), logits.expand(count, 4).clone()).argmax(-1)
    shares = torch.bincount(picks, minlength=4) / count
    expected = (logits / 2).softmax(0)
    assert (shares - expected).abs().max() < 4 * (0.25 / count) ** 0.5  # four standard errors


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    kept = keep_top_p(scores, 0.8) > -torch.inf
    assert kept.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert (keep_top_p(scores, 0.4) > -torch.inf).sum(1).tolist() == [1, 1]
    assert torch.equal(keep_top_p(scores, 1.0), scores)


def test_the_repetition_penalty_is_transformers(make_batch):
    """On prompts of two lengths: what fills the shorter one up is not penalised, its own tokens are."""
    batch, ours = make_batch("prompt", "tiny_qwen2_5_vl"), module(model="tiny_qwen2_5_vl", repetition_penalty=1.5)
    assert (batch["attention_mask"] == 0).sum() > 0
    text = {k: batch[k] for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
    settings = {"max_new_tokens": 10, "do_sample": False}
    plain, penalised = (
        ours.net.generate(**text, **batch["media"], **settings, repetition_penalty=penalty)[
            :, text["input_ids"].shape[1] :
        ]
        for penalty in (1.0, 1.5)
    )
    assert ours.answer_tokens(batch, ours.decoding, "p") == penalised.tolist() != plain.tolist()


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_a_penalty_is_a_positive_number(penalty):
    with pytest.raises(ValueError, match="repetition_penalty must be > 0"):
        SFTModule("tiny_llava_onevision", repetition_penalty=penalty)


def test_predict_rows_carry_record_answer_and_model(make_batch, loader, trainer):
    ours = module()
    batch = make_batch("prompt")
    [rows_] = trainer().predict(ours, loader([batch]))
    assert [row["id"] for row in rows_] == ["clip-0", "clip-1"]
    assert {"response", "finished", "prompt", "meta"} <= set(rows_[0])
    assert rows_[0]["model"]["name"] == "tiny_llava_onevision" and len(rows_[0]["model"]["hash"]) == 64
    settings = {"max_new_tokens": 10, "temperature": None, "top_p": 1.0, "repetition_penalty": 1.0}
    assert rows_[1]["sampling"] == settings | {"num_candidates": 1, "seed": 0}


def test_predict_writes_every_candidate_with_an_id_of_its_own(make_batch):
    sampled = module(temperature=1.0, num_candidates=3)
    rows = sampled.generations(make_batch("prompt"), 3)
    assert [row["id"] for row in rows[:3]] == [f"clip-0/candidate-{n}" for n in range(3)]
    assert [(row["prompt_id"], row["candidate"]) for row in rows[3:]] == [("clip-1", n) for n in range(3)]
    one = sampled.generations(make_batch("prompt"))
    assert [row["response"] for row in one] == [row["response"] for row in rows[::3]]
    assert "prompt_id" not in one[0] and one[0]["id"] == "clip-0"
    with pytest.raises(ValueError, match="num_candidates must be 1, or more with a temperature"):
        SFTModule("tiny_llava_onevision", num_candidates=2)
