"""The ledger: sums by hand, one rounding for any number of merges, W_0 from the base's files."""

import pytest
import torch

from lit_vpo.ledger import fold, live_entry, new_ledger, policy_hash
from lit_vpo.lora import LoRASettings, add_lora, lora_layers, reset_adapter
from lit_vpo.models import family_of, load_model, weights_hash

NAME = "motion_world_base"
LORA = LoRASettings(r=4, alpha=8)
IDS = torch.arange(12)[None]


def adapted(dtype="float32"):
    return add_lora(load_model(NAME, dtype), family_of(NAME), LORA, 0)


def train(net, seed):
    """Stands for a round of training: an adapter that is not zero."""
    with torch.no_grad():
        for _, layer in lora_layers(net):
            weight = layer.lora_B["default"].weight
            weight.copy_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def logits(net):
    return net(input_ids=IDS).logits


def merged_rounds(net, folder, rounds):
    ledger = new_ledger(net, folder)
    for index in range(rounds):
        train(net, index)
        ledger.retire(net)
        reset_adapter(net, 0, index + 1)
    return ledger


def base_folder():
    from lit_vpo.models.loading import weights_folder

    return weights_folder(NAME)


def test_weights_by_hand_after_two_merges():
    net = adapted()
    name, layer = next(iter(lora_layers(net)))
    start, expected = layer.get_base_layer().weight.clone(), layer.get_base_layer().weight.double()
    ledger = new_ledger(net, None)
    for index in range(2):
        train(net, index)
        a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
        expected = expected + 2.0 * b @ a
        ledger.retire(net)
        reset_adapter(net, 0, index + 1)
    torch.testing.assert_close(layer.get_base_layer().weight.double(), expected, atol=1e-6, rtol=1e-6)
    assert (layer.get_base_layer().weight - start).abs().max() > 1e-3
    assert name.removeprefix("base_model.model.") in ledger.names()


def test_a_merge_changes_no_logit_and_the_adapter_off_is_then_the_policy():
    net = adapted()
    train(net, 0)
    policy = logits(net)
    error = new_ledger(net, None).retire(net)
    reset_adapter(net, 0, 1)
    torch.testing.assert_close(logits(net), policy, atol=1e-5, rtol=1e-5)
    with net.disable_adapter():
        assert torch.equal(logits(net), logits(net))
        torch.testing.assert_close(logits(net), policy, atol=1e-5, rtol=1e-5)
    assert error.largest == 0.0 == error.relative  # fp32 is what the sum is taken in


def test_parameters_stay_the_same_objects():
    net = adapted()
    before = {name: id(p) for name, p in net.named_parameters()}
    merged_rounds(net, None, 2)
    assert {name: id(p) for name, p in net.named_parameters()} == before


def test_many_merges_in_bf16_round_once():
    net = adapted("bfloat16")
    _, layer = next(iter(lora_layers(net)))
    exact = layer.get_base_layer().weight.float().clone()
    naive = layer.get_base_layer().weight.clone()
    ledger = new_ledger(net, None)
    for index in range(12):
        train(net, index)
        update = 2.0 * layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
        exact += update
        naive = (naive.float() + update).bfloat16()  # merging into what was merged
        error = ledger.retire(net)
    weight = layer.get_base_layer().weight
    assert torch.equal(weight, exact.bfloat16())
    assert (naive.float() - exact).norm() > 1.5 * (weight.float() - exact).norm()
    assert 0 < error.relative < 0.05 and error.largest > 0


def test_pristine_weights_come_from_the_files():
    net = adapted()
    before = weights_hash(net, frozen_only=True)
    ledger = merged_rounds(net, base_folder(), 2)
    assert not ledger.pristine.copies and len(ledger.pristine.places) == len(list(lora_layers(net)))
    assert weights_hash(net, frozen_only=True) != before
    ledger.load([])
    ledger.apply(net)
    assert weights_hash(net, frozen_only=True) == before


def test_weights_that_the_files_do_not_hold_are_copied():
    net = adapted()
    with torch.no_grad():
        next(iter(lora_layers(net)))[1].get_base_layer().weight.add_(1)  # an adapter merged at the start
    ledger = new_ledger(net, base_folder())
    assert len(ledger.pristine.copies) == 1
    before = weights_hash(net, frozen_only=True)
    train(net, 0)
    ledger.retire(net)
    ledger.load([])
    ledger.apply(net)
    assert weights_hash(net, frozen_only=True) == before


def test_a_ledger_replays_on_another_network_wrapped_or_plain():
    net = adapted()
    ledger = merged_rounds(net, None, 3)
    other, plain = adapted(), load_model(NAME)
    replayed = new_ledger(other, base_folder())
    replayed.load(ledger.state())
    replayed.apply(other)
    assert weights_hash(other, frozen_only=True) == weights_hash(net, frozen_only=True)
    replayed.apply(plain)
    assert weights_hash(plain) == weights_hash(net, frozen_only=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_policy_has_one_hash_however_its_adapters_are_held(dtype, rounds):
    net, plain = adapted(dtype), load_model(NAME, dtype)
    assert policy_hash(net) == policy_hash(plain) == weights_hash(plain)  # B = 0: still the base
    ledger = merged_rounds(net, base_folder(), rounds)
    train(net, 9)
    fold(plain, [*ledger.entries, live_entry(net)])
    assert policy_hash(net, ledger) == weights_hash(plain) != weights_hash(load_model(NAME, dtype))
    train(net, 10)
    assert policy_hash(net, ledger) != weights_hash(plain)


def test_another_bases_ledger_is_refused():
    net = add_lora(load_model("tiny_llava_onevision"), family_of("tiny_llava_onevision"), LORA, 0)
    ledger = new_ledger(adapted(), None)
    train(net, 0)
    other = new_ledger(net, None)
    other.retire(net)
    other.entries[0]["model.language_model.layers.99.q"] = other.entries[0].popitem()[1]
    with pytest.raises(ValueError, match=r"adapters of layers that this base has not: .*layers\.99"):
        ledger.load(other.state())


def test_a_quantised_base_is_refused():
    net = adapted()
    layer = next(iter(lora_layers(net)))[1].get_base_layer()
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="cannot be merged into the quantised layers"):
        new_ledger(net, None)
