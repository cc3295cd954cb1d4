"""A video encoded once and shared by rows equals the ordinary Hugging Face forward with pixels in every row."""

import pytest
import torch

from lit_vpo.models import Family, get_family, load_model, load_processor, register, registry

NAMES = ["tiny_llava_onevision", "tiny_qwen2_5_vl"]
PROMPTS = ["What moves?", "Describe the video in detail."]
RESPONSES = ["a red circle", "a blue square moves left, then it spins", "nothing at all", "two"]
VIDEO_OF_ROW = [0, 1, 1, 0]
FPS = [2.0, 8.0]  # seconds per grid step differ, and with them the positions of Qwen2.5-VL


def processed(processor, texts, videos, fps, padding_side="right"):
    metadata = [
        {"total_num_frames": len(v), "fps": f, "frames_indices": list(range(len(v)))}
        for v, f in zip(videos, fps, strict=True)
    ]
    return processor(
        text=texts,
        videos=videos,
        return_tensors="pt",
        padding=True,
        padding_side=padding_side,
        videos_kwargs={"do_sample_frames": False, "video_metadata": metadata},
    )


def prompt_text(processor, prompt):
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt}]}
    return processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)


def scaled(name):
    """Initial weights are so small that attention hardly matters; larger ones make a wrong video or position show."""
    net = load_model(name)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return net


@pytest.fixture(params=NAMES)
def setup(request):
    rng = torch.Generator().manual_seed(0)
    videos = [torch.randint(0, 256, (4, 3, 60, 60), generator=rng, dtype=torch.uint8) for _ in range(2)]
    processor = load_processor(request.param)
    return scaled(request.param), processor, get_family(request.param.removeprefix("tiny_")), videos


def media_of(processor, videos):
    inputs = processed(processor, [prompt_text(processor, p) for p in PROMPTS], videos, FPS)
    names = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    return {name: torch.as_tensor(inputs[name]) for name in names if name in inputs}


def row_inputs(processor, videos, responses, side="right"):
    texts = [prompt_text(processor, PROMPTS[v]) + r for v, r in zip(VIDEO_OF_ROW, responses, strict=True)]
    inputs = processed(processor, texts, [videos[v] for v in VIDEO_OF_ROW], [FPS[v] for v in VIDEO_OF_ROW], side)
    if "second_per_grid_ts" in inputs:
        inputs["second_per_grid_ts"] = torch.as_tensor(inputs["second_per_grid_ts"])
    return inputs


def text_inputs(inputs):
    return {k: inputs[k] for k in ("input_ids", "attention_mask", "mm_token_type_ids") if k in inputs}


@torch.no_grad()
def test_shared_features_equal_pixels_per_row(setup):
    net, processor, family, videos = setup
    media = media_of(processor, videos)
    inputs = row_inputs(processor, videos, RESPONSES)
    expected = net(**inputs, use_cache=False).logits
    features = family.encode(net, media)
    kwargs = family.video_kwargs(features, torch.tensor(VIDEO_OF_ROW), media)
    logits = net(**text_inputs(inputs), **kwargs, use_cache=False).logits
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[seen], expected[seen], atol=1e-5, rtol=1e-5)
    # the comparison can fail: with the videos exchanged the logits are far away
    wrong = family.video_kwargs(features, 1 - torch.tensor(VIDEO_OF_ROW), media)
    assert (net(**text_inputs(inputs), **wrong, use_cache=False).logits[seen] - expected[seen]).abs().max() > 1e-2


@torch.no_grad()
def test_positions_are_those_of_the_row_batch(monkeypatch):
    videos = [torch.zeros(4, 3, 60, 60, dtype=torch.uint8)] * 2
    net, processor = scaled("tiny_qwen2_5_vl"), load_processor("tiny_qwen2_5_vl")
    family, media = get_family("qwen2_5_vl"), media_of(processor, videos)
    seen = []
    forward = net.model.language_model.forward
    monkeypatch.setattr(
        net.model.language_model, "forward", lambda *a, **k: (seen.append(k["position_ids"]), forward(*a, **k))[1]
    )
    inputs = row_inputs(processor, videos, RESPONSES)
    net(**inputs, use_cache=False)
    kwargs = family.video_kwargs(family.encode(net, media), torch.tensor(VIDEO_OF_ROW), media)
    net(**text_inputs(inputs), **kwargs, use_cache=False)
    torch.testing.assert_close(seen[0], seen[1], atol=0, rtol=0)
    # 2 frames per grid step at 2 fps are 1 s, that is 2 positions; at 8 fps 0.25 s are 0 (rounded down)
    start = inputs["input_ids"][0].tolist().index(net.config.video_token_id)
    assert seen[1][0, 0, start : start + 18].unique().tolist() == [start, start + 2]
    start = inputs["input_ids"][1].tolist().index(net.config.video_token_id)
    assert seen[1][0, 1, start : start + 18].unique().tolist() == [start]


@torch.no_grad()
def test_generation_from_encoded_videos_equals_plain_generation(setup):
    net, processor, family, videos = setup
    media = media_of(processor, videos)
    inputs = row_inputs(processor, videos, [""] * 4, side="left")
    assert not inputs["attention_mask"].bool().all()  # prompts differ in length: there is left padding
    settings = {"max_new_tokens": 12, "do_sample": False}
    expected = net.generate(**inputs, **settings)
    kwargs = family.video_kwargs(family.encode(net, media), torch.tensor(VIDEO_OF_ROW), media)
    assert torch.equal(net.generate(**text_inputs(inputs), **kwargs, **settings), expected)


def test_unknown_family_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model family 'llava'; known: llava_onevision, qwen2_5_vl"):
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
