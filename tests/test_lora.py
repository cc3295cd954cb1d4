"""LoRA touches the language model alone, starts by address, and merges to what it was."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from lit_vpo.lora import (
    LoRASettings,
    add_lora,
    lora_layers,
    merge_adapter,
    refuse_adapter,
    refuse_unrestorable,
    reset_adapter,
    target_pattern,
)
from lit_vpo.models import get_family, load_model
from lit_vpo.models.llava_onevision import tiny_llava_onevision
from lit_vpo.reference import adapter_off

NAMES = ["tiny_llava_onevision", "tiny_qwen2_5_vl"]
IDS = torch.arange(8, 20)[None]


def family_of(name):
    return get_family(name.removeprefix("tiny_"))


def logits(net):
    with torch.no_grad():
        return net(input_ids=IDS).logits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_no_adapter_outside_the_language_model(name, targets):
    net, family = load_model(name), family_of(name)
    linear = {n for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    pattern = target_pattern(net, family, targets)
    hit = {n for n in linear if re.fullmatch(pattern, n)}
    speaking = {n for n in linear if n.startswith("model.language_model.")}
    wanted = speaking if targets == "all-linear" else {n for n in speaking if n.endswith(("q_proj", "v_proj"))}
    assert hit == wanted and hit
    wrapped = add_lora(net, family, LoRASettings(r=2, alpha=4, targets=targets), seed=0)
    adapted = {n.removeprefix("base_model.model.") for n, _ in lora_layers(wrapped)}
    assert adapted == wanted
    trainable = {n for n, p in wrapped.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in wrapped.named_parameters() if ".lora_" in n}


def test_the_bare_suffix_would_hit_the_tower():
    net = load_model("tiny_llava_onevision")
    wrapped = get_peft_model(net, LoraConfig(r=2, target_modules=["q_proj"]))
    assert any("vision_tower" in n for n, _ in lora_layers(wrapped))


def test_targets_that_cannot_be():
    net, family = load_model("tiny_qwen2_5_vl"), get_family("qwen2_5_vl")
    with pytest.raises(ValueError, match="'qkv' is in the vision tower or the projector"):
        target_pattern(net, family, ["q_proj", "qkv"])
    with pytest.raises(ValueError, match="'query' is no linear layer of the language model; it has: down_proj"):
        target_pattern(net, family, ["query"])


@pytest.mark.parametrize("more", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_impossible_settings(more):
    with pytest.raises(ValueError, match="LoRA"):
        LoRASettings(**more)


def test_first_values_have_an_address():
    def first(seed, round_index=0):
        torch.manual_seed(torch.seed())
        state = torch.get_rng_state()
        net = add_lora(load_model(NAMES[0]), family_of(NAMES[0]), LoRASettings(r=2, alpha=4), seed, round_index)
        assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator
        return {n: p.detach().clone() for n, p in net.named_parameters() if ".lora_" in n}

    one = first(0)
    assert all(torch.equal(one[n], p) for n, p in first(0).items())
    for other in (first(1), first(0, 1)):
        assert all(torch.equal(one[n], p) == ("lora_B" in n) for n, p in other.items())
    assert all((p == 0).all() for n, p in one.items() if "lora_B" in n)
    spread = torch.cat([p.flatten() for n, p in one.items() if "lora_A" in n and p.shape[1] == 144])
    assert spread.abs().max() <= 144**-0.5 and spread.std().item() == pytest.approx((3 * 144) ** -0.5, rel=0.05)


def test_reset_is_in_place():
    net = add_lora(load_model(NAMES[0]), family_of(NAMES[0]), LoRASettings(r=2, alpha=4), 0)
    before = {n: (id(p), p.clone()) for n, p in net.named_parameters()}
    with torch.no_grad():
        [p.add_(1) for n, p in net.named_parameters() if ".lora_" in n]
    reset_adapter(net, 0)
    assert all(id(p) == before[n][0] and torch.equal(p, before[n][1]) for n, p in net.named_parameters())


@pytest.fixture
def adapter(tmp_path):
    """A PEFT folder with a trained adapter, and the logits of the adapted network."""

    def make(**more):
        torch.manual_seed(0)
        net = get_peft_model(
            load_model(NAMES[0]), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], **more)
        )
        with torch.no_grad():
            [p.normal_(std=0.1) for n, p in net.named_parameters() if ".lora_" in n]
        net.save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter"), logits(net.eval())

    return make


def test_merge_equals_adapter_on(adapter):
    path, expected = adapter()
    net = load_model(NAMES[0])
    assert (logits(net) - expected).abs().max() > 1e-2
    merged = merge_adapter(net, path)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert type(merged) is type(load_model(NAMES[0]))
    refuse_adapter(merged)  # plain again: an adapter of our own can follow
    assert set(merged.state_dict()) == set(load_model(NAMES[0]).state_dict())


def test_merge_sums_in_fp32_and_rounds_once(adapter):
    path, _ = adapter()
    net = load_model(NAMES[0], "bfloat16")
    name = "model.language_model.layers.0.self_attn.q_proj"
    weight = net.get_submodule(name).weight.detach().clone()
    merged = merge_adapter(net, path).get_submodule(name).weight
    stored = load_file(path + "/adapter_model.safetensors")
    a, b = (stored[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    assert torch.equal(merged, (weight.float() + 2.0 * (b @ a)).to(torch.bfloat16))


def test_adapters_that_cannot_be_merged(adapter, tmp_path):
    with pytest.raises(ValueError, match="not a folder that PEFT saved"):
        merge_adapter(load_model(NAMES[0]), str(tmp_path / "absent"))
    path, _ = adapter(modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="modules_to_save"):
        merge_adapter(load_model(NAMES[0]), path)


def test_adapter_of_another_model_is_refused_by_name(adapter):
    path, _ = adapter()
    with pytest.raises(ValueError, match=r"does not fit the model: .*layers\.3"):
        merge_adapter(tiny_llava_onevision(layers=3)[0], path)


def test_adapted_network_is_refused(adapter):
    net = add_lora(load_model(NAMES[0]), family_of(NAMES[0]), LoRASettings(r=2, alpha=4), 0)
    for wrapped in (net, net.get_base_model()):
        with pytest.raises(ValueError, match="carries a LoRA adapter already"):
            add_lora(wrapped, family_of(NAMES[0]), LoRASettings(r=2, alpha=4), 0)


def test_trainable_outside_the_adapter_is_refused():
    net = add_lora(load_model(NAMES[0]), family_of(NAMES[0]), LoRASettings(r=2, alpha=4), 0)
    refuse_unrestorable(net)
    net.get_base_model().model.multi_modal_projector.requires_grad_(True)
    with pytest.raises(ValueError, match=r"cannot restore these trainable parameters: .*multi_modal_projector"):
        refuse_unrestorable(net)


def test_adapter_off_is_the_base_and_everything_returns():
    base = logits(load_model(NAMES[0]))
    net = add_lora(load_model(NAMES[0]), family_of(NAMES[0]), LoRASettings(r=2, alpha=4), 0)
    with torch.no_grad():
        [p.add_(0.05) for n, p in net.named_parameters() if "lora_B" in n]
    policy = logits(net)
    assert (policy - base).abs().max() > 1e-2
    with adapter_off(net):
        assert torch.equal(net(input_ids=IDS).logits, base)
        assert not torch.is_grad_enabled()
    assert torch.equal(logits(net), policy) and torch.is_grad_enabled()
    assert all(p.requires_grad == (".lora_" in n) for n, p in net.named_parameters())
    with pytest.raises(RuntimeError, match="broken"), adapter_off(net):
        raise RuntimeError("broken")
    assert torch.equal(logits(net), policy)


def test_a_flag_left_flipped_in_the_reference_is_an_error():
    net = add_lora(load_model(NAMES[0]), family_of(NAMES[0]), LoRASettings(r=2, alpha=4), 0)
    with pytest.raises(AssertionError, match="requires_grad changed"), adapter_off(net):
        net.get_base_model().lm_head.weight.requires_grad_(True)
