"""One door to models: folders, shipped bases, tiny ones; hashes name weights, not formats."""

import json

import pytest
import torch

from lit_vpo.models import load_model, load_processor, tiny_names, weights_hash
from lit_vpo.models import loading as door
from lit_vpo.models.llava_onevision import tiny_llava_onevision
from lit_vpo.models.qwen2_5_vl import tiny_qwen2_5_vl
from lit_vpo.models.tiny import TINY
from lit_vpo.models.tokenizer import EOS_TOKEN, PAD_TOKEN, load_tokenizer, train_tokenizer

NAMES = tiny_names()
LLAVA = "tiny_llava_onevision"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_models_are_a_function_of_their_seed(name):
    state = torch.get_rng_state()
    one, two = load_model(name), load_model(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(one) == weights_hash(two)
    assert weights_hash(TINY[name](seed=1)[0]) != weights_hash(one)
    assert one.lm_head.weight is one.get_input_embeddings().weight and not one.training
    assert not [m.p for m in one.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]


@pytest.mark.parametrize("name", NAMES)
def test_folder_equals_memory(name, tmp_path):
    net, processor = load_model(name), load_processor(name)
    net.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    loaded = load_model(str(tmp_path / "m"))
    assert weights_hash(loaded) == weights_hash(net) == weights_hash(str(tmp_path / "m"))
    again = load_processor(str(tmp_path / "m"))
    assert type(again) is type(processor) and again.chat_template == processor.chat_template
    assert again.video_token_id == processor.video_token_id == net.config.video_token_id
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What moves?"}]}
    video = torch.randint(0, 256, (4, 3, 72, 72), dtype=torch.uint8)
    outputs = []
    for p in (processor, again):
        text = p.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        videos = {
            "do_sample_frames": False,
            "video_metadata": [{"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3]}],
        }
        outputs.append(p(text=[text], videos=[video], return_tensors="pt", videos_kwargs=videos))
    assert text.endswith("What moves?<|im_end|>\n<|im_start|>assistant\n")
    one, two = ({k: torch.as_tensor(v) for k, v in out.items() if k != "video_metadata"} for out in outputs)
    torch.testing.assert_close(one, two, atol=0, rtol=0)


def test_hash_sees_values_not_formats(tmp_path):
    net = load_model(LLAVA).to(torch.float16)
    wide = load_model(LLAVA).to(torch.float16).to(torch.float32)
    assert weights_hash(net) == weights_hash(wide)
    net.save_pretrained(tmp_path)
    assert weights_hash(load_model(str(tmp_path))) == weights_hash(net)
    assert load_model(str(tmp_path), "auto").dtype == torch.float16
    with torch.no_grad():
        wide.model.image_newline[0] += 1
    assert weights_hash(net) != weights_hash(wide)
    frozen = weights_hash(wide.requires_grad_(False), frozen_only=True)
    assert frozen == weights_hash(wide)
    wide.model.image_newline.requires_grad_(True)
    assert weights_hash(wide, frozen_only=True) == weights_hash(wide, without=["model.image_newline"]) != frozen


def test_shipped_bases_go_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(door, "BASES", tmp_path)
    load_model(LLAVA).save_pretrained(tmp_path / "some_base")
    load_processor(LLAVA).save_pretrained(tmp_path / "some_base")
    assert weights_hash("some_base") == weights_hash(LLAVA)
    assert load_processor("some_base").num_image_tokens == 36
    with pytest.raises(ValueError, match="nor one of: some_base, tiny_llava_next_video"):
        load_model("another_base")


@pytest.mark.parametrize("name", ["motion_world_base", "motion_world_judge"])
def test_the_shipped_bases_are_the_tiny_qwen2_5_vl(name):
    base, tiny = load_model(name), load_model("tiny_qwen2_5_vl")
    assert {n: p.shape for n, p in base.named_parameters()} == {n: p.shape for n, p in tiny.named_parameters()}
    # its initial weights, before MotionWorld: the base can be made again
    assert weights_hash(tiny) == "31634647c57d990c06048518fa27c6fa0048d01ee4a5f72d26764bc2e9fcf263"


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor a name"):
        load_processor("no/such-model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="unknown model family 'bert'; known: llava_next_video, llava_onevision"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no model_type"):
        load_model(str(tmp_path))


def test_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="image_size must be a multiple of 10"):
        tiny_llava_onevision(image_size=64)
    with pytest.raises(ValueError, match="image_size must be a multiple of 20"):
        tiny_qwen2_5_vl(image_size=70)
    with pytest.raises(ValueError, match="hidden must be a multiple of 4"):
        tiny_llava_onevision(hidden=100)
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        tiny_llava_onevision(depth=3)


def test_tokenizer_reads_any_text_and_repeats_itself(tmp_path):
    texts = ["a red circle moves left"] * 5 + ["the blue square grows"] * 5
    one, two = train_tokenizer(texts, 300), train_tokenizer(texts, 300)
    assert one.get_vocab() == two.get_vocab() and len(one) <= 300
    for tokenizer in (one, load_tokenizer()):
        assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS_TOKEN, PAD_TOKEN)
        text = "Ünïcode 漢字 \t <odd>\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text and tokenizer.unk_token is None
        assert len(tokenizer(tokenizer.video_token, add_special_tokens=False)["input_ids"]) == 1
    with pytest.raises(ValueError, match="vocab_size must be >= 263"):
        train_tokenizer(texts, 100)
