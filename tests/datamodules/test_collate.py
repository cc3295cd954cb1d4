import copy
from itertools import chain

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lit_vpo.datamodules.collate import Collator
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.video import decode
from lit_vpo.models import load_processor, tiny_names

LONG = "Describe the video in a sentence or two, please."


@pytest.fixture(scope="module", params=tiny_names())
def processor(request):
    return load_processor(request.param)


@pytest.fixture(scope="module")
def decoded(clips):
    return [decode(clips[0], 4), decode(clips[1], 4, end_s=1.0), decode(clips[2], 4)]


def record(n, **fields):
    texts = {"prompt": ("What?", LONG, "Who?")[n], "ground_truth": ("a cat", "a red square", "dogs")[n]}
    return {"id": f"r{n}", "key": f"s{n}", "media": {}, **texts, "chosen": f"a cat {n}", "rejected": "a dog", **fields}


def examples(decoded, **fields):
    return [(record(n, **fields), clip) for n, clip in enumerate(decoded)]


def one_by_one(processor, record, clip):
    """Oracle: the processor called on a single example, as the contract writes it."""
    turns = [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
        for turn in record.get("history", [])
    ]
    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": record["prompt"]}]}
    text = processor.apply_chat_template([*turns, user], add_generation_prompt=True, tokenize=False)
    metadata = [
        {"total_num_frames": len(clip.frames), "fps": clip.fps, "frames_indices": list(range(len(clip.frames)))}
    ]
    return processor(
        text=[text],
        videos=[clip.frames],
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "video_metadata": metadata, "fps": clip.fps},  # fps: Qwen2.5-Omni's
    )


def row_of(batch, row, name="input_ids"):
    return batch[name][row][batch["attention_mask"][row].bool()].tolist()


def response(processor, text):
    return processor.tokenizer(text, add_special_tokens=False).input_ids + [processor.tokenizer.eos_token_id]


def test_instruction_rows_are_prompt_then_answer(processor, decoded):
    batch = Collator(processor, "instruction")(examples(decoded, weight=2))
    assert batch["kind"] == "instruction" and batch["weight"].tolist() == [2.0] * 3
    assert batch["video_index"].tolist() == [0, 1, 2]
    for n, (rec, clip) in enumerate(examples(decoded)):
        prompt = one_by_one(processor, rec, clip)["input_ids"][0].tolist()
        answer = response(processor, rec["ground_truth"])
        assert row_of(batch, n) == prompt + answer
        assert row_of(batch, n, "labels") == [-100] * len(prompt) + answer
        length = len(prompt) + len(answer)
        assert batch["attention_mask"][n].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        assert (batch["labels"][n, length:] == -100).all()


def test_media_are_those_of_single_examples_on_top_of_each_other(processor, decoded):
    media = Collator(processor, "instruction")(examples(decoded))["media"]
    single = [one_by_one(processor, *example) for example in examples(decoded)]
    names = {name for name in single[0] if name not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    assert set(media) == names
    for name in names:
        joined = torch.cat([torch.as_tensor(inputs[name]) for inputs in single])
        assert torch.equal(media[name], joined.to(media[name].dtype)), name


def test_seconds_per_grid_are_those_of_the_video(qwen, decoded):
    media = Collator(qwen, "prompt")(examples(decoded))["media"]
    # 16 frames at 8 fps: 4 sampled frames span 15/8 s, so 5/8 s lie between them and a grid of 2 takes 10/8 s
    assert media["second_per_grid_ts"].tolist() == pytest.approx([1.25, 2 * 0.875 / 3, 1.25])
    assert media["video_grid_thw"][:, 0].tolist() == [2, 2, 2]


def test_token_types_mark_the_video_where_the_family_needs_them(qwen, llava, decoded):
    batch = Collator(qwen, "instruction")(examples(decoded))
    is_video = batch["input_ids"] == qwen.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert torch.equal(batch["mm_token_type_ids"], is_video.long() * 2) and is_video.any()
    assert "mm_token_type_ids" not in Collator(llava, "instruction")(examples(decoded))


def test_preference_rows_stand_in_blocks_and_share_the_prompt(processor, decoded):
    for with_ground_truth in (False, True):
        batch = Collator(processor, "preference", with_ground_truth)(examples(decoded))
        blocks = 3 if with_ground_truth else 2
        assert batch["has_ground_truth"] is with_ground_truth
        assert batch["video_index"].tolist() == [0, 1, 2] * blocks and len(batch["input_ids"]) == 3 * blocks
        assert len(batch["media"]["pixel_values_videos"]) == len(
            Collator(processor, "prompt")(examples(decoded))["media"]["pixel_values_videos"]
        )
        for block, name in enumerate(("chosen", "rejected", "ground_truth")[:blocks]):
            for n, (rec, clip) in enumerate(examples(decoded)):
                prompt = one_by_one(processor, rec, clip)["input_ids"][0].tolist()
                assert row_of(batch, 3 * block + n) == prompt + response(processor, rec[name])


def test_question_rows_are_options(processor, decoded):
    options = [["yes", "no"], ["red", "a blue one", "green"], ["a", "b"]]
    asked = [
        (record(n, meta={"options": options[n]}, ground_truth=answer), clip)
        for n, (answer, clip) in enumerate(zip(("no", "green", "a"), decoded, strict=True))
    ]
    batch = Collator(processor, "question")(asked)
    assert batch["question_index"].tolist() == batch["video_index"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert batch["answer"].tolist() == [1, 2, 0]
    for row, text in enumerate(chain.from_iterable(options)):
        assert [token for token in row_of(batch, row, "labels") if token != -100] == response(processor, text)


def test_prompts_end_at_the_right_edge(processor, decoded):
    batch = Collator(processor, "prompt")(examples(decoded))
    assert "labels" not in batch
    for n, example in enumerate(examples(decoded)):
        prompt = one_by_one(processor, *example)["input_ids"][0].tolist()
        assert batch["input_ids"][n, -len(prompt) :].tolist() == prompt
        assert batch["attention_mask"][n].sum() == len(prompt)


def test_a_text_opens_with_bos_once_where_the_tokenizer_writes_it(llava, decoded):
    processor = copy.copy(llava)
    processor.tokenizer = copy.deepcopy(llava.tokenizer)
    processor.tokenizer.bos_token = "<|im_start|>"
    bos = processor.tokenizer.bos_token_id
    opening = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)])
    processor.tokenizer.backend_tokenizer.post_processor = opening
    for template, count in ((PARTS_ONLY, 1), (processor.chat_template, 2)):  # the latter writes one for each turn
        processor.chat_template = template.replace("VIDEO", processor.video_token)
        batch = Collator(processor, "instruction")(examples(decoded))
        assert all(row_of(batch, n)[0] == bos and row_of(batch, n).count(bos) == count for n in range(3))


PARTS_ONLY = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}VIDEO{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
)


def test_history_comes_before_the_prompt_even_where_the_template_knows_parts_only(processor, decoded):
    # the templates of released LLaVA-OneVision checkpoints loop over parts and print nothing for plain text
    processor = copy.copy(processor)
    processor.chat_template = PARTS_ONLY.replace("VIDEO", processor.video_token)
    history = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good day"}]
    rec = record(0, history=history)
    text = processor.tokenizer.decode(row_of(Collator(processor, "prompt")([(rec, decoded[0])]), 0))
    assert text.index("hello there") < text.index("good day") < text.index("What?")


def test_the_video_of_a_conversation_stands_before_the_first_words_of_the_user(processor, decoded):
    history = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "good day"},
    ]
    ids = row_of(Collator(processor, "prompt")([(record(0, history=history), decoded[0])]), 0)
    text = processor.tokenizer.decode(ids)
    assert text.index("be short") < text.index(processor.video_token) < text.index("hello there")
    assert text.rindex(processor.video_token) < text.index("hello there")


def test_a_weight_of_zero_stays_zero(llava, decoded):
    rows = [
        (record(n, weight=weight), clip) for n, (weight, clip) in enumerate(zip((0, None, 2), decoded, strict=True))
    ]
    assert Collator(llava, "instruction")(rows)["weight"].tolist() == [0.0, 1.0, 2.0]


def test_prompts_of_text_alone_stand_among_prompts_with_a_video(processor, decoded):
    rows = [(record(0), None), (record(1), decoded[1]), (record(2), None), (record(0), decoded[0])]
    batch = Collator(processor, "prompt")(rows)
    assert batch["video_index"].tolist() == [-1, 0, -1, 1]
    alone = [{"role": "user", "content": [{"type": "text", "text": record(n)["prompt"]}]} for n in (0, 2)]
    texts = [processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False) for turn in alone]
    plain = [processor.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    seeing = [one_by_one(processor, rows[row][0], rows[row][1]) for row in (1, 3)]
    expected = [plain[0], seeing[0]["input_ids"][0].tolist(), plain[1], seeing[1]["input_ids"][0].tolist()]
    length = max(map(len, expected))
    assert batch["attention_mask"].tolist() == [[0] * (length - len(row)) + [1] * len(row) for row in expected]
    assert [row_of(batch, n) for n in range(4)] == expected
    pixels = torch.cat([torch.as_tensor(inputs["pixel_values_videos"]) for inputs in seeing])
    assert torch.equal(batch["media"]["pixel_values_videos"], pixels)


@pytest.mark.parametrize("field", ["prompt", "ground_truth"])
def test_a_media_placeholder_inside_a_text_is_a_bad_sample(processor, field):
    with pytest.raises(BadSample, match="media placeholder"):
        Collator(processor, "instruction").texts.check(record(0, **{field: f"see {processor.video_token} here"}))


def test_an_unknown_kind_is_refused(llava):
    with pytest.raises(ValueError, match="instruction, preference, prompt, question"):
        Collator(llava, "reward")


def test_records_that_show_one_clip_share_it_and_keep_their_own_prompts(processor, decoded):
    turns = [{"role": "system", "content": "Look."}]  # the video does not always stand at the same place
    rows = [(record(0), decoded[0]), (record(1), decoded[1]), (record(2, history=turns), decoded[0])]
    batch = Collator(processor, "instruction")(rows)
    assert batch["video_index"].tolist() == [0, 1, 0]
    for n, (rec, clip) in enumerate(rows):
        prompt = one_by_one(processor, rec, clip)["input_ids"][0].tolist()
        assert row_of(batch, n) == prompt + response(processor, rec["ground_truth"])
    alone = Collator(processor, "instruction")(rows[:2])["media"]
    assert all(torch.equal(value, batch["media"][name]) for name, value in alone.items())


def test_negatives_stand_in_blocks_and_may_look_at_a_view_of_their_own(processor, decoded):
    clean, other, corrupted = decoded
    negatives = [{"text": "a bird"}, {"text": "a cat 0", "media": {"frame_order": [3, 2, 1, 0]}}, {"text": "unused"}]
    first = (record(0, negatives=negatives), [clean, clean, clean, corrupted, clean])
    second = (record(1, negatives=negatives), other)
    collator = Collator(processor, "preference", with_ground_truth=True, num_negatives=3)
    batch = collator([first, second])
    texts = [
        ("a cat 0", "a dog", "a bird", "a cat 0", "a cat"),
        ("a cat 1", "a dog", "a bird", "a cat 0", "a red square"),
    ]
    assert batch["video_index"].tolist() == [0, 1, 0, 1, 0, 1, 2, 1, 0, 1] and batch["has_ground_truth"]
    for n, (rec, shown) in enumerate((first, second)):
        for block, text in enumerate(texts[n]):
            clip = shown[block] if isinstance(shown, list) else shown
            prompt = one_by_one(processor, rec, clip)["input_ids"][0].tolist()
            assert row_of(batch, 2 * block + n) == prompt + response(processor, text)
    three = Collator(processor, "prompt")([(record(0), clip) for clip in (clean, other, corrupted)])["media"]
    assert all(torch.equal(value, batch["media"][name]) for name, value in three.items())
    assert [shown.media for shown in collator.texts.responses(first[0])] == [
        {},
        {},
        {},
        {"frame_order": [3, 2, 1, 0]},
        {},
    ]


def test_counts_are_the_tokens_that_labels_hold(processor, decoded):
    for kind, roles in (("instruction", ["ground_truth"]), ("preference", ["chosen", "rejected", "ground_truth"])):
        collator = Collator(processor, kind, with_ground_truth=True)
        batch = collator(examples(decoded, weight=2))
        lengths = (batch["labels"] != -100).sum(1).view(len(roles), 3)
        for n, (rec, _) in enumerate(examples(decoded, weight=2)):
            expected = {role: (2, 2 * int(lengths[k, n])) for k, role in enumerate(roles) if role != "rejected"}
            assert collator.texts.counts([rec]) == [expected]
    assert Collator(processor, "prompt").texts.counts([record(0)]) == [{}]


def test_a_batch_needs_a_rejected_response(llava):
    with pytest.raises(ValueError, match="num_negatives must be >= 1, got 0"):
        Collator(llava, "preference", num_negatives=0)
