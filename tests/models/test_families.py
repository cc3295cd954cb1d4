"""Positions worked by hand, and how a family is found; what all of them must do is in test_conformance.py."""

import json

import pytest

from lit_vpo.models import Family, get_family, load_model, register, registry, weights_hash


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("qwen2_vl", (1, 1)),  # one position per grid step, whatever time it takes
        ("qwen2_5_vl", (2, 0)),  # 2 frames take 1 s at 2 fps: 2 positions; at 8 fps 0.25 s: half a one, rounded down
        ("qwen2_5_omni", (25, 6)),  # the same at 25 positions per second
    ],
)
def test_positions_follow_the_seconds(make_batch, name, steps):
    batch, net, family = (
        make_batch("preference", f"tiny_{name}", fps=[2.0, 8.0]),
        load_model(f"tiny_{name}"),
        get_family(name),
    )
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    kwargs = family.video_kwargs(family.encode(net, batch["media"]), batch["video_index"], batch["media"])
    positions = family.position_ids(net, {name: batch[name] for name in names if name in batch} | kwargs)
    for row, step in enumerate(steps):
        is_video = batch["input_ids"][row] == net.config.video_token_id
        start = int(is_video.long().argmax())
        assert positions[0, row, is_video].unique().tolist() == sorted({start, start + step})


def test_every_frame_of_qwen3_stands_after_its_time(make_batch):
    batch, net, family = make_batch("preference", "tiny_qwen3_vl"), load_model("tiny_qwen3_vl"), get_family("qwen3_vl")
    rows = {name: batch[name][:1] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    positions = family.position_ids(net, rows | {"video_grid_thw": batch["media"]["video_grid_thw"][:1]})
    is_video = batch["input_ids"][0] == net.config.video_token_id
    first = int(is_video.long().argmax())  # 9 tokens of 3 x 3, 10 words, 9 tokens: a frame takes 3 positions
    words = int((~is_video[first + 9 :]).long().cumprod(0).sum())
    assert positions[0, 0, is_video].unique().tolist() == [first, first + 3 + words]


def test_the_thinker_comes_out_of_a_whole_omni(tmp_path):
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    net = load_model("tiny_qwen2_5_omni")
    config = Qwen2_5OmniConfig(thinker_config=net.config.to_dict(), enable_audio_output=False)
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(net.state_dict())
    whole.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2_5_omni"
    assert weights_hash(str(tmp_path)) == weights_hash(net)


def test_unknown_family_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model family 'llava'; known: llava_next_video, llava_onevision"):
        get_family("llava")
    with pytest.raises(ValueError, match="cannot import"):
        get_family("no_such_package.Family")
    with pytest.raises(ValueError, match="not a subclass"):
        get_family("collections.OrderedDict")


def test_family_from_a_users_package(tmp_path, monkeypatch):
    (tmp_path / "users_package.py").write_text(
        "from lit_vpo.models.llava_onevision import LlavaOnevision\n"
        "class TheirFamily(LlavaOnevision):\n"
        "    name = 'theirs'\n"
        "    model_type = 'their_model_type'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry.families()))
    family = get_family("users_package.TheirFamily")
    assert isinstance(family, Family) and family.name == "theirs"
    assert get_family("their_model_type") is family
    assert load_model("tiny_llava_onevision", family="users_package.TheirFamily").config.model_type == "llava_onevision"
    assert register(type(family)) is type(family)
