import pytest

from lit_vpo.metrics import CaptionCounts
from lit_vpo.preferences.instructions import DEFAULT_PROMPTS
from lit_vpo.preferences.pairs import DEFAULT_FILTERS, build_pairs, pair_quality

MODEL = {"name": "tiny", "hash": "abc"}
SAMPLING = {"temperature": 0.7, "seed": 0}


def generation(key="a", kind=None, response="first this, then that", r=4, **fields):
    row = {
        "key": key,
        "id": f"{key}/{kind or 'clean'}",
        "prompt": "Describe.",
        "media": {"frame_order": [1, 0]} if kind else {},
        "perturbation": {"kind": kind, "r": r} if kind else None,
        "response": response,
        "finished": True,
        "model": MODEL,
        "sampling": SAMPLING,
        "meta": {"details": ["d"]},
        "events": [],
    }
    return row | ({"r": r, "difficulty": 0.5} if kind else {}) | fields


def outcome(chosen, rejected, **options):
    """The reason of the one pair's drop, or None."""
    pairs, dropped = build_pairs([chosen, rejected], **options)
    assert len(pairs) + len(dropped) == 1
    return dropped[0]["reason"] if dropped else None


def test_pair_row():
    pairs, dropped = build_pairs([generation(), generation(kind="reverse", response=" first that, then this\n")])
    assert dropped == []
    assert pairs == [
        {
            "key": "a",
            "id": "a/reverse",
            "prompt": "Describe.",
            "chosen": "first this, then that",
            "rejected": "first that, then this",
            "mode": "dpo",
            "r": 4,
            "difficulty": 0.5,
            "perturbation": {"kind": "reverse", "r": 4},
            "meta": {"details": ["d"], "model": MODEL, "sampling": SAMPLING},
        }
    ]
    assert "media" not in pairs[0]  # both answers are trained on the clean video


@pytest.mark.parametrize(
    ("chosen", "kind", "rejected", "reason"),
    [
        ("one two", "reverse", "two one", None),
        ("", "reverse", "two one", "empty"),
        ("one two", "reverse", " \n", "empty"),
        ("N/A", "reverse", "two", "not_available"),
        ("one two", "drop", " N/A ", "not_available"),
        ("one two", "reverse", "one two ", "equal"),
        ("one two", "drop", "two one", "drop_not_shorter"),
        ("one two", "drop", "two on", None),
        ("one two", "shuffle", "one two!", "chosen_in_rejected"),
        ("one two!", "shuffle", "one two", None),
        ("abcd", "shuffle", "ghijkl", None),  # exactly 1.5 times
        ("abcd", "shuffle", "ghijklm", "length_ratio"),
        ("ghijklm", "reverse", "abcd", "length_ratio"),
        ("ghijklm", "drop", "abcd", None),  # dropped events make shorter answers: no ratio rule
        ("abcd", "my_package.mine", "ghijklm", None),
    ],
)
def test_each_rule_and_its_edge(chosen, kind, rejected, reason):
    assert outcome(generation(response=chosen), generation(kind=kind, response=rejected)) == reason


@pytest.mark.parametrize("num_words, reason", [(10, None), (11, None), (12, "lengths_differ"), (9, "lengths_differ")])
def test_pairs_of_one_length_are_a_control_of_their_own(num_words, reason):
    chosen, rejected = " ".join("a" * 10), " ".join("b" * num_words)
    rows = generation(response=chosen), generation(kind="shuffle", response=rejected)
    assert outcome(*rows, filters=["lengths_differ"]) == reason and outcome(*rows) is None


@pytest.mark.parametrize("cut", [0, 1])
def test_answers_cut_by_the_token_limit_are_dropped(cut):
    rows = [generation(), generation(kind="reverse", response="first that, then this")]
    rows[cut]["finished"] = False
    assert outcome(*rows) == "unfinished"
    assert outcome(*rows, filters=["empty"]) is None


def test_three_perturbations_of_two_videos_stay_with_their_own():
    rows = [
        generation(key, kind, response=f"{key} {kind or 'clean one!'}")
        for kind in (None, "drop", "shuffle", "reverse")
        for key in ("b", "a")
    ]
    pairs, dropped = build_pairs(rows)
    assert dropped == []
    assert [(p["key"], p["chosen"], p["rejected"]) for p in pairs] == [
        (key, f"{key} clean one!", f"{key} {kind}") for kind in ("drop", "shuffle", "reverse") for key in ("b", "a")
    ]


def test_no_clean_answer_to_the_same_prompt():
    other = generation(prompt="Tell.")
    assert outcome(other, generation(kind="reverse", response="x")) == "no_clean_answer"
    # written from lists of captions, the answers stand for a question about the video itself
    rows = [
        generation(prompt="- Caption 1: b a", meta={"asked": "Tell."}, media={"video": None}),
        generation(
            kind="reverse", response="first that, then this", prompt="- Caption 1: a b", meta={"asked": "Tell."}
        ),
    ]
    (pair,), _ = build_pairs(rows)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (
        "Tell.",
        "first this, then that",
        "first that, then this",
    )
    assert "media" not in pair  # training shows the video
    with pytest.raises(ValueError, match="two clean answers"):
        build_pairs([generation(), generation()])


def test_limit_per_video_is_a_draw_by_seed_and_key():
    kinds = ("shuffle", "reverse", "drop")
    rows = [
        generation(f"k{i}", kind, response=f"{kind} answer" if kind else "a clean answer!")
        for i in range(60)
        for kind in (None, *kinds)
    ]
    pairs, dropped = build_pairs(rows, max_pairs_per_video=1)
    assert [pair["key"] for pair in pairs] == [f"k{i}" for i in range(60)]
    assert [row["reason"] for row in dropped] == ["max_pairs_per_video"] * 120
    chosen_kinds = [pair["perturbation"]["kind"] for pair in pairs]
    assert all(8 <= chosen_kinds.count(kind) <= 32 for kind in kinds)
    assert build_pairs(rows[:40], max_pairs_per_video=1)[0] == pairs[:10]
    assert build_pairs(rows, max_pairs_per_video=1, seed=1)[0] != pairs
    with pytest.raises(ValueError, match="max_pairs_per_video"):
        build_pairs(rows, max_pairs_per_video=0)


def only_long(chosen, rejected):
    return len(chosen["response"]) < 10


def test_a_question_is_answered_by_one_of_its_options():
    meta = {"options": ["The red circle", "the blue square"]}
    right, none = generation(response="the red circle."), generation(response="a red square")
    wrong = generation(kind="reverse", response="the green cat")
    assert outcome(right | {"meta": meta}, wrong) is None  # the rejected one may be none of them
    assert outcome(none | {"meta": meta}, wrong) == "no_option"
    assert outcome(none, wrong) is None  # not a question


def test_filters_by_name_order_and_dotted_path():
    rows = generation(response="short"), generation(kind="reverse", response="short")
    assert outcome(*rows) == "equal"
    assert outcome(*rows, filters=[f"{__name__}.only_long", *DEFAULT_FILTERS]) == f"{__name__}.only_long"
    assert outcome(*rows, filters=[]) is None
    with pytest.raises(ValueError, match="unknown pair filter 'longer'; known: chosen_in_rejected"):
        build_pairs(rows, filters=["longer"])


def test_default_prompts_are_six_different_ones():
    assert len(set(DEFAULT_PROMPTS)) == 6


def scorer(caption, record):
    """ "discordant/matched errors" -> counts; the record must be the pair's own."""
    order, errors = caption.split()
    discordant, matched = order.split("/")
    return CaptionCounts(record["num_events"], int(errors), 0, 0, int(discordant), int(matched), 1, 0, 1, 0)


def pair(kind, chosen, rejected, key="a"):
    return {"id": key, "key": key, "chosen": chosen, "rejected": rejected, "perturbation": {"kind": kind, "r": 2}}


def test_pair_quality_counts_ties_and_undefined_apart():
    pairs = [
        pair("reverse", "0/3 1", "1/3 1"),
        pair("reverse", "1/2 0", "1/3 2"),
        pair("reverse", "1/3 2", "2/6 1"),
        pair("drop", "0/3 1", "0/0 3", key="b"),
    ]
    records = {"a": {"num_events": 3}, "b": {"num_events": 4}}
    quality = pair_quality(pairs, scorer, records)
    assert list(quality) == ["all", "reverse", "drop"]
    third = pytest.approx(1 / 3)
    assert quality["reverse"] == {
        "num_pairs": 3,
        "order_better": third,
        "order_tied": third,
        "order_worse": third,
        "order_undefined": 0,
        "error_better": third,
        "error_tied": third,
        "error_worse": third,
    }
    assert quality["drop"]["order_undefined"] == 1 and quality["drop"]["error_better"] == 1
    assert quality["all"]["num_pairs"] == 4 and quality["all"]["error_better"] == 0.5


def test_answers_to_questions_are_better_where_they_alone_are_right():
    question = {"ground_truth": "the red circle", "meta": {"options": ["the red circle", "the blue square"]}}
    answers = ("The red circle.", "the blue square"), ("the red circle", "the red circle."), ("a cat", "the red circle")
    pairs = [pair("reverse", "0/3 1", "1/3 1", key="b")]
    pairs += [pair("reverse", *each) for each in answers]
    quality = pair_quality(pairs, scorer, {"a": question, "b": {"num_events": 4}})
    third = pytest.approx(1 / 3)
    assert [quality["questions"][f"error_{name}"] for name in ("better", "tied", "worse")] == [third, third, third]
    assert quality["questions"]["order_undefined"] == 1 and quality["reverse"]["order_better"] == 1
    assert [quality[name]["num_pairs"] for name in ("all", "reverse", "questions")] == [4, 1, 3]


def test_pair_quality_needs_every_record():
    with pytest.raises(ValueError, match="1 of 1 pairs have no record"):
        pair_quality([pair("drop", "0/0 0", "0/0 0")], scorer, {})
