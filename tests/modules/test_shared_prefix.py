"""Packing by hand; that shared rows equal separate rows is in tests/models/test_conformance.py, for every family."""

import pytest
import torch

from lit_vpo.models.shared_prefix import Segment, pack, packed_positions, why_not_shared
from lit_vpo.modules import SFTModule


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
    packing = pack(rows, video_token=2)
    assert packing.segments == (Segment(2, (2, 3, 3)), Segment(1, (1,)))
    assert rows["input_ids"].flatten()[packing.source].tolist() == [1, 2, 3, 4, 5, 4, 6, 3, 4, 7, 9, 9]
    assert packing.where.tolist() == [[0, 1, 2, 3, 0], [10, 11, 0, 0, 0], [0, 1, 4, 5, 6], [0, 1, 7, 8, 9]]
    positions = packed_positions(packing, torch.arange(5).repeat(2, 1))
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3, 4, 2, 3, 4, 0, 1]]


def test_a_response_is_never_part_of_a_trunk():
    packing = pack(rows_of([([1, 2], [4, 5]), ([1, 2], [4, 6])], [0, 0]), video_token=2)
    assert packing.segments == (Segment(2, (2, 2)),)


def test_rows_of_text_alone_share_only_their_own_prompt():
    packing = pack(rows_of([([1, 2], [4]), ([1, 3], [4]), ([1, 2], [5])], [-1, -1, -1]), video_token=2)
    assert packing.segments == (Segment(2, (1, 1)), Segment(2, (1,)))


def test_rows_of_one_video_after_different_words_have_no_trunk_in_common():
    rows = rows_of([([1, 7, 7, 2], [4]), ([5, 7, 7, 2], [4]), ([1, 7, 7, 3], [4])], [0, 0, 0])
    packing = pack(rows, video_token=7)
    assert packing.segments == (Segment(3, (2, 2)), Segment(4, (1,)))
    assert packing.leaders.tolist() == [0, 1]


CANNOT = [
    ({"layer_types": ["sliding_attention"] * 4}, "not all of full attention"),
    ({"num_experts": 8}, "experts are balanced"),
    ({"num_local_experts": 8}, "experts are balanced"),
    ({"sliding_window": 4, "use_sliding_window": True}, "in a sliding window"),
    ({"sliding_window": 4, "use_sliding_window": None}, None),
]


@pytest.mark.parametrize("settings, reason", CANNOT)
def test_a_network_that_cannot_share_says_why_and_takes_separate_rows(settings, reason, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("lit_vpo.modules.policy.rank_zero_info", said.append)
    module = SFTModule("tiny_qwen2_5_vl", tuning="language_model")
    module.configure_model()
    assert module.share_prefix and why_not_shared(module.net) is None and not said
    for name, value in settings.items():
        setattr(module.net.config.text_config, name, value)
    module.prepare_sharing(module.net)
    assert module.share_prefix == (reason is None)
    assert reason is None or (len(said) == 1 and reason in said[0] and "on its own" in said[0])


def test_a_window_without_a_switch_is_on():
    from transformers import MistralConfig

    module = SFTModule("tiny_qwen2_5_vl", tuning="language_model")
    module.configure_model()
    module.net.config.text_config = MistralConfig(sliding_window=4)
    assert "sliding window" in why_not_shared(module.net)
    module.net.config.text_config = MistralConfig(sliding_window=None)
    assert why_not_shared(module.net) is None
