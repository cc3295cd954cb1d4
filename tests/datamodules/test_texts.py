import pytest

from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.texts import Texts


def record(n, **fields):
    texts = {"prompt": "What?", "ground_truth": "a cat", "chosen": f"a cat {n}", "rejected": "a dog"}
    return {"id": f"r{n}", "key": f"s{n}", "media": {}, **texts, **fields}


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("prompt", {"prompt": "  "}, "empty prompt"),
        ("prompt", {"prompt": None}, "empty prompt"),
        ("instruction", {"ground_truth": ""}, "empty ground_truth"),
        ("preference", {"chosen": None}, "empty chosen"),
        ("preference", {"rejected": " "}, "empty rejected"),
        ("preference", {"chosen": "a cat", "rejected": "a cat\n"}, "chosen = rejected"),
        ("question", {}, "two or more different"),
        ("question", {"meta": {"options": ["x", "x"]}, "ground_truth": "x"}, "two or more different"),
        ("question", {"meta": {"options": ["x", "y"]}, "ground_truth": "z"}, "ground_truth among them"),
        ("question", {"meta": {"options": ["x", ""]}, "ground_truth": "x"}, "empty option"),
    ],
)
def test_records_that_make_no_row_are_bad_samples(llava, kind, fields, reason):
    with pytest.raises(BadSample, match=reason):
        Texts(llava, kind).check(record(0, **fields))


def test_ground_truth_rows_need_a_ground_truth(llava):
    Texts(llava, "preference").check(record(0, ground_truth=None))
    with pytest.raises(BadSample, match="empty ground_truth"):
        Texts(llava, "preference", with_ground_truth=True).check(record(0, ground_truth=None))


@pytest.mark.parametrize(
    ("negatives", "reason"),
    [
        (None, "1 rejected responses where num_negatives is 2"),
        ([], "1 rejected responses where num_negatives is 2"),
        ([{"text": " "}], r"empty negatives\[0\]"),
        ([{"text": "a cat 0 "}], r"chosen = negatives\[0\]"),
        ([{"text": "a cat 0", "media": {"end_s": None}}], r"chosen = negatives\[0\]"),
    ],
)
def test_negatives_that_make_no_row_are_bad_samples(llava, negatives, reason):
    Texts(llava, "preference").check(record(0, negatives=negatives))  # one rejected response needs none of them
    with pytest.raises(BadSample, match=reason):
        Texts(llava, "preference", num_negatives=2).check(record(0, negatives=negatives))


def test_chosen_may_be_rejected_on_another_view(llava):
    negatives = [{"text": "a cat 0", "media": {"end_s": 1.0}}]
    Texts(llava, "preference", num_negatives=2).check(record(0, negatives=negatives))
    with pytest.raises(BadSample, match="chosen = negatives"):
        Texts(llava, "preference", num_negatives=2).check(record(0, media={"end_s": 1.0}, negatives=negatives))


def test_either_response_may_look_at_a_view_of_its_own(llava):
    texts = Texts(llava, "preference")
    same = record(0, chosen="a cat", rejected="a cat", views={"rejected": {"frame_order": [1, 0]}})
    texts.check(same)
    assert [row.media for row in texts.responses(same)] == [{}, {"frame_order": [1, 0]}]
    with pytest.raises(BadSample, match="chosen = rejected"):
        texts.check(same | {"views": {name: {"frame_order": [1, 0]} for name in ("chosen", "rejected")}})


def test_texts_that_are_the_same_tokens_make_no_pair(llava, monkeypatch):
    texts = Texts(llava, "preference")
    monkeypatch.setattr(texts, "tokenize", lambda words: [[len(text)] for text in words])
    with pytest.raises(BadSample, match="chosen = rejected as tokens"):
        texts.check(record(0, chosen="a cat", rejected="a dog"))
    texts.check(record(0, chosen="a cat", rejected="two dogs"))


@pytest.mark.parametrize("field", ["prompt", "chosen"])
def test_half_a_character_is_a_bad_sample(llava, field):
    with pytest.raises(BadSample, match="half a character"):
        Texts(llava, "preference").check(record(0, **{field: "a \ud800 cat"}))


def test_a_text_without_a_token_is_a_bad_sample(llava, monkeypatch):
    texts = Texts(llava, "instruction")
    monkeypatch.setattr(texts, "tokenizer", lambda words, **_: {"input_ids": [[] for _ in words]})
    with pytest.raises(BadSample, match="makes no token of"):
        texts.check(record(0))


def test_a_pair_laid_over_a_record_for_sft_stays_a_pair(llava):
    texts = Texts(llava, "preference")
    over = record(0, mode="sft", ground_truth="a cow")
    assert [row.text for row in texts.responses(over)] == [over["chosen"], over["rejected"]]
    alone = over | {"chosen": None, "rejected": None}
    assert [row.text for row in texts.responses(alone)] == ["a cow"] * 2
    with pytest.raises(BadSample, match="chosen = rejected"):
        texts.check(over | {"rejected": over["chosen"]})


def test_counts_go_over_many_records_and_skip_what_says_nothing(llava):
    texts = Texts(llava, "preference", with_ground_truth=True, num_negatives=2)
    assert texts.counted_fields == ("chosen", "rejected", "negatives", "ground_truth")
    good = record(0, weight=2, negatives=[{"text": "a cow"}])
    length = {name: len(llava.tokenizer(good[name]).input_ids) + 1 for name in ("chosen", "ground_truth")}
    alone = {"mode": "sft", "ground_truth": "a cat", "prompt": "What?"}
    odd = good | {"chosen": " ", "ground_truth": "a \ud800"}
    assert texts.counts([good, record(1), odd, alone]) == [
        {role: (2, 2 * length[role]) for role in ("chosen", "ground_truth")},
        {},  # too few rejected responses
        {},
        {"sft": (1, length["ground_truth"])},
    ]
    assert Texts(llava, "question").counted_fields == () and Texts(llava, "instruction").counts([]) == []
