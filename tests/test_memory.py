"""The estimate of memory: by hand on a decoder of two layers, and against what autograd keeps."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_vpo.memory import Load, MemoryEstimate, estimate_memory, load_of
from lit_vpo.models import load_model
from lit_vpo.models.registry import video_token
from lit_vpo.modules import DPOModule, SFTModule

LOAD = Load(tokens=10, repeated=3, scored=4)


def decoder_of_two_layers():
    config = Qwen2Config(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=32,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


def test_full_tuning_by_hand():
    net = decoder_of_two_layers()
    buffers = sum(b.numel() * 4 for b in net.buffers())
    got = estimate_memory(net, net.get_decoder(), LOAD)
    # embedding and head 256 each; a layer: q 72, k 36, v 36, o 64, MLP 384, norms 16; last norm 8
    weights = 4 * (2 * 256 + 2 * 608 + 8)
    # bytes per token and layer: norms 2 * 4 * (8 + 1) + 2 * 4 * 8, queries, outputs and MLP 4 * (16 + 48) + 4 * 2,
    # keys and values 32, inputs of linear layers 4 * (8 + 8 + 8 + 16)
    layer = 10 * (136 + 264 + 32 + 160) + 3 * 32
    ends = 10 * (4 * 8 + 2 * 4 * 4)
    assert got == MemoryEstimate(weights + buffers, 0, weights, 2 * weights, 2 * layer + ends, 3 * 4 * 4 * 32)
    assert got.total == 4 * weights + buffers + 2 * layer + ends + 1536
    kept = estimate_memory(net, net.get_decoder(), LOAD, checkpointing=True)
    assert kept.activations == 2 * 10 * 8 * 4 + layer + ends
    assert f"{got.total / 2**30:.3f} GiB" in str(got)


def test_an_adapter_by_hand():
    from peft import LoraConfig, get_peft_model

    net = get_peft_model(decoder_of_two_layers(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    got = estimate_memory(net, net.get_base_model().get_decoder(), LOAD, optimizer_states=1, chunk=2)
    # q: 2 * 8 + 8 * 2, v: 2 * 8 + 4 * 2; no gradient of norms; inputs: 8, which q and v share, and 2 of each adapter
    assert got.adapters == got.gradients == got.optimizer == 4 * 2 * 56
    assert got.activations == 2 * (10 * (72 + 264 + 32 + 4 * (8 + 2 + 2)) + 3 * 32) + 10 * 64
    assert got.logits == 3 * 4 * 2 * 32


def test_autocast_by_hand():
    net = decoder_of_two_layers()
    got = estimate_memory(net, net.get_decoder(), LOAD, autocast=True)
    # norms as they are; what linear layers and attention make in 16 bits; each linear layer casts an input of its own
    layer = 10 * (136 + 2 * 64 + 8 + 16 + 2 * (3 * 8 + 8 + 2 * 8 + 16)) + 3 * 16
    assert got.activations == 2 * layer + 10 * 64


def kept_bytes(module, batch):
    """What autograd keeps for the backward pass of a batch's log-probabilities, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()  # the tensor stays, so that no address comes twice
        return tensor

    features = module.encode(batch)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logps = module.logps(batch, features)
    del logps
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tuning, dtype", [("lora", "float32"), ("language_model", "float32"), ("lora", "bfloat16")])
def test_activations_are_what_autograd_keeps(make_batch, tuning, dtype, shared):
    cls = DPOModule if tuning == "lora" else SFTModule
    module = cls("tiny_qwen2_5_vl", tuning=tuning, dtype=dtype)
    module.configure_model()
    module.share_prefix = shared
    batch = make_batch("preference", "tiny_qwen2_5_vl")
    got = estimate_memory(module, module.base.get_decoder(), load_of(batch, shared, video_token(module.base.config)))
    kept = kept_bytes(module, batch)
    assert abs(got.activations + got.logits / 3 - kept) < 0.25 * kept  # of the logits autograd keeps the log-softmax


def test_the_load_of_shared_rows_is_that_of_the_packed_sequence(make_batch):
    batch = make_batch("preference", "tiny_qwen2_5_vl")
    token = video_token(load_model("tiny_qwen2_5_vl").config)
    shared, separate = (load_of(batch, share, token) for share in (True, False))
    assert separate.tokens == batch["input_ids"].numel() > shared.tokens
    assert shared.scored == separate.scored and shared.repeated > 0 == separate.repeated
