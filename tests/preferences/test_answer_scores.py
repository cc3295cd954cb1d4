"""Scores of answers as the released scripts read them, and what they leave unsaid: counts, cuts, the judge."""

from dataclasses import asdict

import pytest

from lit_vpo.preferences.judges.answer_scores import (
    Match,
    Quality,
    Truncated,
    match_prompt,
    match_scores,
    parse_match,
    parse_quality,
    quality_prompt,
    quality_scores,
    truncate_words,
)

JUDGE = {"judge": "gpt-3.5-turbo-0301", "prompt": "abc"}


@pytest.mark.parametrize(
    "reply, score, rule",
    [
        ("Score: 4", 4, "score"),
        ("Explanation: 2 of 3 actions.\nScore: 4.5", 4.5, "score"),
        ("Score: 2 ... Score: 5", 2, "score"),
        ("3 3 5", 3, "vote"),
        ("I give 2 or 5", 3.5, "vote"),
        ("score: 4", 4, "vote"),  # the released pattern knows the capital alone
        ("", 1, "none"),
        ("five", 1, "none"),
    ],
)
def test_quality_is_read_as_released(reply, score, rule):
    assert parse_quality(reply) == Quality(score, rule)


@pytest.mark.parametrize(
    "reply, expected",
    [
        ("{'pred': 'yes', 'score': 4}", Match(True, 4)),
        ('```python\n{"pred": "No", "score": 0.5}\n```', Match(False, 0.5)),
        ("I looked at {both}. {'score': 5, 'pred': ' yes '}", Match(True, 5)),
        ("{'pred': 'yes'}", None),
        ("{'pred': 'maybe', 'score': 3}", None),
        ("{'pred': 'yes', 'score': '4'}", None),
        ("{'pred': 'yes', 'score': True}", None),
        ("{'pred': 'yes', 'score': 6}", None),
        ("{'pred': 'yes', 'score': -1}", None),
        ("{'yes', 4}", None),
        ("{'pred': __import__('os').getcwd(), 'score': 4}", None),
        ("{" + "[" * 5000 + "}", None),
        ("yes, 4", None),
        ("", None),
    ],
)
def test_match_is_read_without_running_anything(reply, expected):
    assert parse_match(reply) == expected


def test_what_a_cut_hides_is_said():
    assert truncate_words("one  two\nthree", 3) == Truncated("one  two\nthree", 3, False)
    assert truncate_words("one  two\nthree", 2) == Truncated("one two", 3, True)
    assert truncate_words("word " * 256) == Truncated("word " * 256, 256, False)
    assert truncate_words("word " * 257).num_words == 257 and len(truncate_words("word " * 257).text.split()) == 256
    with pytest.raises(ValueError, match="max_words must be >= 1"):
        truncate_words("a", 0)


def test_prompts_hold_what_the_judge_must_see_and_no_more_than_the_cut_answer():
    asked = quality_prompt("CAPTION", "QUESTION", "TRUTH", truncate_words("first second HIDDEN", 2))
    assert all(part in asked for part in ("CAPTION", "QUESTION", "TRUTH", "first second", "Score:"))
    assert "HIDDEN" not in asked
    assert all(
        part in match_prompt("QUESTION", "TRUTH", "ANSWER") for part in ("QUESTION", "TRUTH", "ANSWER", "'pred'")
    )


def test_quality_of_a_set_with_its_judge_beside_every_number():
    answers = [truncate_words(text) for text in ("word " * 300, "two words", "", "one")]
    found = quality_scores(["Score: 5", "3 3 1", "", "Score: 50"], answers, JUDGE)
    assert asdict(found) == {
        "accuracy": 3 / 4,
        "score": (5 + 3 + 1 + 50) / 4,
        "num_answers": 4,
        "num_voted": 1,
        "num_unread": 1,
        "num_out_of_range": 1,
        "num_cut": 1,
        "words": 303 / 4,
        "judge": JUDGE,
    }


def test_replies_that_cannot_be_read_count_as_wrong():
    found = match_scores(["{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 1}", "yes!", ""], JUDGE)
    assert asdict(found) == {"accuracy": 1 / 4, "score": 5 / 4, "num_answers": 4, "num_failed": 2, "judge": JUDGE}


def test_numbers_without_a_judge_or_an_answer_are_refused():
    for replies, judge in (([], JUDGE), (["Score: 4"], {})):
        with pytest.raises(ValueError, match="at least one reply, and the judge's identity"):
            match_scores(replies, judge)
        with pytest.raises(ValueError, match="at least one reply, and the judge's identity"):
            quality_scores(replies, [truncate_words("a")] * len(replies), judge)
    with pytest.raises(ValueError, match="1 replies to 2 answers"):
        quality_scores(["Score: 4"], [truncate_words("a")] * 2, JUDGE)
