"""KL from the base: the base is what it was, the answers are the policy's own, and nothing of training changes."""

import pytest
import torch

from lit_vpo.callbacks import BaseKL, LoRAMergeReinit
from lit_vpo.datamodules import Clip, Collator
from lit_vpo.lora import LoRASettings, lora_layers
from lit_vpo.models import load_model, load_processor
from lit_vpo.modules import DPOModule, SFTModule
from lit_vpo.modules.generation import with_answers
from lit_vpo.modules.scoring import score, video_inputs

NAME = "tiny_qwen2_5_vl"
SMALL = LoRASettings(r=4, alpha=8)


def make(**more):
    settings = {"lora": SMALL, "round_steps": 2, "check_video": False, "max_new_tokens": 6} | more
    return DPOModule(NAME, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2), **settings)


def moved(merges=0, **more):
    """A policy that has learnt something, after some merges."""
    module = make(**more)
    module.configure_model()
    module.eval()
    for _ in range(merges):
        learn(module)
        module.cross(merge=True, new_weight=None)
        module.round += 1
    learn(module)
    return module


@torch.no_grad()
def learn(module):
    rng = torch.Generator().manual_seed(module.round)
    for _, layer in lora_layers(module.net):
        weight = layer.lora_B["default"].weight
        weight.copy_(0.05 * torch.randn(weight.shape, generator=rng))


def weights(module):
    return {name: tensor.clone() for name, tensor in module.net.state_dict().items()}


def test_prompts_and_answers_are_the_collators_rows():
    processor = load_processor(NAME)
    records = [
        {"id": f"{n}", "key": f"{n}", "prompt": "What moves?" * (n + 1), "ground_truth": "a star" * (3 - n)}
        for n in range(3)
    ]
    clip = Clip(torch.zeros(4, 3, 60, 60, dtype=torch.uint8), [0.0, 0.5, 1.0, 1.5], 2.0)
    expected = Collator(processor, "instruction")([(record, clip) for record in records])
    eos = processor.tokenizer.eos_token_id
    answers = [[*processor.tokenizer(r["ground_truth"], add_special_tokens=False)["input_ids"], eos] for r in records]
    prompts = Collator(processor, "prompt")([(record, clip) for record in records])
    rows = with_answers(prompts, answers, expected["input_ids"][2, -1].item())
    for name in ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "video_index"):
        assert torch.equal(rows[name], expected[name]), name


@pytest.mark.parametrize("merges", [0, 2])
@pytest.mark.parametrize("reference", ["adapter_off", "second_adapter"])
def test_the_ratio_is_that_of_the_policy_and_an_untouched_base(make_batch, merges, reference):
    module, batch = moved(merges, reference=reference), make_batch("prompt", NAME)
    rows = module._drawn(batch)
    with torch.no_grad():
        features = module.encode(rows)
        policy, base = (
            score(net, module.family, rows, features, False).sums for net in (module.base, load_model(NAME))
        )
    assert (policy - base).abs().max() > 0.1
    torch.testing.assert_close(module.base_logratios([batch]), policy - base, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_policy_comes_back_bit_for_bit(dtype):
    module = moved(merges=2, dtype=dtype)
    before, start = weights(module), load_model(NAME, dtype=dtype)
    with module.at_base():
        (name, layer), *_ = lora_layers(module.net)
        own = start.get_submodule(name.removeprefix("base_model.model.")).weight
        assert torch.equal(layer.get_base_layer().weight, own)
        assert not torch.equal(before[f"{name}.base_layer.weight"], own)
    after = weights(module)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(RuntimeError, match="stop"), module.at_base():
        raise RuntimeError("stop")
    assert all(torch.equal(module.net.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_fresh_policy_is_its_base(make_batch):
    module = make()
    module.configure_model()
    assert torch.equal(module.base_logratios([make_batch("prompt", NAME)]), torch.zeros(2))


def test_the_mean_is_the_divergence(make_batch):
    """With answers of one token the divergence is a sum over the vocabulary."""
    module = moved(merges=1, max_new_tokens=1)
    more = {"one_clip": True, "prompt": "What moves?"}  # the ids alone differ
    ratios = module.base_logratios([make_batch("prompt", NAME, size=256, **more)])
    one = make_batch("prompt", NAME, size=1, **more)
    rows = with_answers(one, [[0]], 0)
    with torch.no_grad():
        inputs = video_inputs(module.family, rows, module.encode(rows))
        policy, base = (
            net.get_output_embeddings()(module.family.hidden(net, inputs))[0, -2].log_softmax(-1)
            for net in (module.base, load_model(NAME))
        )
    drawn = policy.exp()
    drawn[module.base.config.video_token_id] = 0
    exact = (drawn / drawn.sum() * (policy - base)).sum()
    assert abs(ratios.mean() - exact) < 3 * ratios.std() / len(ratios) ** 0.5 < exact


def test_training_goes_on_as_if_nobody_had_measured(make_batch, loader, trainer):
    batches = [make_batch("preference", NAME, first=2 * index) for index in range(4)]
    ended = []
    for more in ([], [BaseKL()]):
        module = make()
        run = trainer(callbacks=[LoRAMergeReinit(), *more], max_steps=4, val_check_interval=2)
        run.fit(module, loader(batches), loader([make_batch("prompt", NAME)]))
        ended.append(weights(module))
    assert all(torch.equal(ended[1][name], tensor) for name, tensor in ended[0].items())
    assert run.callback_metrics["val/base_kl"] == module.base_logratios([make_batch("prompt", NAME)]).mean()


@pytest.mark.parametrize(
    "module, message",
    [
        (lambda: make(tuning="full", lora=None), "the base's weights are kept with tuning: lora alone, got 'full'"),
        (lambda: SFTModule(NAME, lora=SMALL), "BaseKL needs a module that keeps its base; SFTModule does not"),
    ],
)
def test_a_base_that_is_lost_is_refused_before_training(make_batch, loader, trainer, module, message):
    with pytest.raises(ValueError, match=message):
        trainer(callbacks=[BaseKL()]).fit(module(), loader([make_batch("preference", NAME)]))
