"""The shared row equals separate rows; with the wrong mask or the wrong positions it does not."""

import pytest
import torch

from lit_vpo.models import shared_prefix
from lit_vpo.models.shared_prefix import Segment, pack, packed_positions, why_not_shared
from lit_vpo.modules import DPOModule, SFTModule

NAMES = ["tiny_llava_onevision", "tiny_qwen2_5_vl"]


def rows_of(texts, videos):
    """Rows given as (prompt ids, response ids)."""
    width = max(len(p) + len(r) for p, r in texts)
    ids, labels, mask = torch.zeros(3, len(texts), width, dtype=torch.long)
    labels -= 100
    for row, (prompt, response) in enumerate(texts):
        length = len(prompt) + len(response)
        ids[row, :length] = torch.tensor(prompt + response)
        labels[row, len(prompt) : length] = torch.tensor(response)
        mask[row, :length] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "video_index": torch.tensor(videos)}


def test_packing_by_hand():
    rows = rows_of([([1, 2, 3], [4]), ([9], [9]), ([1, 2, 5], [4, 6]), ([1, 2, 3], [4, 7])], [0, 1, 0, 0])
    packing = pack(rows)
    assert packing.segments == (Segment(2, (2, 3, 3)), Segment(1, (1,)))
    assert rows["input_ids"].flatten()[packing.source].tolist() == [1, 2, 3, 4, 5, 4, 6, 3, 4, 7, 9, 9]
    assert packing.where.tolist() == [[0, 1, 2, 3, 0], [10, 11, 0, 0, 0], [0, 1, 4, 5, 6], [0, 1, 7, 8, 9]]
    positions = packed_positions(packing, torch.arange(5).repeat(2, 1))
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3, 4, 2, 3, 4, 0, 1]]


def test_a_response_is_never_part_of_a_trunk():
    packing = pack(rows_of([([1, 2], [4, 5]), ([1, 2], [4, 6])], [0, 0]))
    assert packing.segments == (Segment(2, (2, 2)),)


def test_rows_of_text_alone_share_only_their_own_prompt():
    packing = pack(rows_of([([1, 2], [4]), ([1, 3], [4]), ([1, 2], [5])], [-1, -1, -1]))
    assert packing.segments == (Segment(2, (1, 1)), Segment(2, (1,)))


def module_of(name, cls=DPOModule, **settings):
    module = cls(name, **settings)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)  # initial attention is so flat that a wrong mask hides
        [p.add_(0.05) for n, p in module.named_parameters() if "lora_B" in n]
    return module


def both_ways(module, batch):
    results = []
    for module.share_prefix in (True, False):
        module.zero_grad()
        features = module.encode(batch["media"])
        logps = module.logps(batch, features)
        (logps.sums * torch.linspace(-1, 2, len(logps.sums))).sum().backward()
        results.append((logps.tokens.detach(), [p.grad for p in module.parameters() if p.grad is not None]))
    return results


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", NAMES)
def test_shared_rows_equal_separate_rows_in_value_and_gradient(make_batch, name):
    module = module_of(name)
    (shared, shared_grads), (separate, separate_grads) = both_ways(
        module, make_batch("preference", name, with_ground_truth=True)
    )
    torch.testing.assert_close(shared, separate, atol=1e-5, rtol=1e-5)
    assert len(shared_grads) == len(separate_grads) > 0
    flat = [torch.cat([g.flatten() for g in grads]) for grads in (shared_grads, separate_grads)]
    assert relative(*flat) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_two_videos_of_one_batch_do_not_see_each_other(make_batch, name):
    module = module_of(name)
    batch = make_batch("preference", name)
    with torch.no_grad():
        features = module.encode(batch["media"])
        before = module.logps(batch, features)
        after = module.logps(batch, [features[0], features[1] + 1])
    first = batch["video_index"][before.rows] == 0
    assert torch.equal(before.tokens[first], after.tokens[first])
    assert (before.tokens[~first] - after.tokens[~first]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["mask", "positions"])
def test_a_wrong_mask_and_wrong_positions_show(make_batch, monkeypatch, name, wrong):
    module = module_of(name)
    if wrong == "mask":  # branches see each other: the whole group as one causal sequence

        def one_sequence(self, *args, segments=None, **kwargs):
            joined = tuple(Segment(trunk, (sum(branches),)) for trunk, branches in segments)
            return ATTENTION(self, *args, segments=joined, **kwargs)

        ATTENTION = shared_prefix.shared_prefix_attention
        from transformers import AttentionInterface

        monkeypatch.setitem(AttentionInterface._global_mapping, shared_prefix.ATTENTION, one_sequence)
    else:  # a branch goes on where the one before it ended
        monkeypatch.setattr(
            "lit_vpo.modules.base.packed_positions", lambda packing, leaders: torch.arange(len(packing.source))[None]
        )
    batch = make_batch("preference", name)
    with torch.no_grad():
        features = module.encode(batch["media"])
        if wrong == "mask":
            module.share_prefix = True
            shared = module.logps(batch, features).tokens
            monkeypatch.undo()
        else:
            shared = module.logps(batch, features).tokens
        module.share_prefix = False
        separate = module.logps(batch, features).tokens
    assert (shared - separate).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing(make_batch, name):
    batch = make_batch("preference", name)
    grads = []
    for checkpointing in (False, True):
        module = module_of(name, gradient_checkpointing=checkpointing)
        module.policy_mode()
        if checkpointing:
            module.base.gradient_checkpointing_enable({"use_reentrant": False})
            assert module.base.is_gradient_checkpointing
        module.logps(batch, module.encode(batch["media"])).sums.sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)


def test_a_network_that_cannot_share_says_why_and_takes_separate_rows(monkeypatch):
    module = SFTModule("tiny_qwen2_5_vl", tuning="language_model")
    module.configure_model()
    assert module.share_prefix and why_not_shared(module.net) is None
    module.net.config.text_config.layer_types = ["sliding_attention"] * 4
    assert "full attention" in why_not_shared(module.net)
    module.prepare_sharing(module.net)
    assert not module.share_prefix
