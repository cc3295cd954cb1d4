"""Two answers in both orders, by hand: which verdicts count, and what becomes of the others."""

import pytest

from lit_vpo.preferences.comparisons import (
    ask_judge,
    check_enough,
    comparisons,
    judged_pairs,
    questions,
    read_replies,
    verdict_counts,
    verdict_rows,
)
from lit_vpo.preferences.contexts import JudgeContexts, RetrospectionPrompts, true_events
from lit_vpo.preferences.judges import LongerWins

CONTEXTS = JudgeContexts("own", {"v": {"context": "A ball.", "context_prev": "A dog."}}, true_events)
PROMPTS = RetrospectionPrompts(judge="{description}{question}|{first}|{second}", description="{context}|")
ANSWERS = ("a ball moves left", "a ball stops")


def candidates(first, second, name="p", **more):
    record = {"key": "v", "prompt_id": name, "prompt": "What?", "meta": {"scope": "video"}, "model": {"name": "m"}}
    record |= {"finished": True, "ground_truth": "g", "sampling": {"top_p": 0.95}} | more
    rows = [
        record | {"id": f"{name}/candidate-{n}", "candidate": n, "response": t} for n, t in enumerate((first, second))
    ]
    return rows[::-1]  # whatever their order


def judged(straight, swapped, answers=ANSWERS, **more):
    """The verdict row of two replies."""
    compared = comparisons(candidates(*answers, **more), CONTEXTS, 4)
    asked = questions(compared, PROMPTS)
    given = zip(asked, (straight, swapped), strict=False)
    replies = [row | (r if isinstance(r, dict) else {"response": r}) for row, r in given]
    (row,) = verdict_rows(compared, read_replies(replies, asked, PROMPTS), {"judge": "self"})
    return row


def scored(first, second):
    return {"response": "the likelier", "option_logps": [first, second], "option_tokens": [4, 9]}


def test_both_orders_are_asked_by_the_same_context():
    first, second = questions(comparisons(candidates(*ANSWERS), CONTEXTS, 1), PROMPTS)
    assert first["prompt"] == "A ball.|What?|a ball moves left|a ball stops" and first["id"] == "p/order-12"
    assert second["prompt"] == "A ball.|What?|a ball stops|a ball moves left" and second["id"] == "p/order-21"
    assert first["key"] == second["key"] == "v" and first["meta"] == {"options": list(PROMPTS.verdicts)}


def test_the_row_of_a_verdict_that_both_orders_agree_in():
    row = judged(scored(-3.0, -1.0), scored(-0.5, -2.0))
    assert row == {
        "key": "v", "id": "p", "prompt_id": "p", "prompt": "What?", "ground_truth": "g", "meta": {"scope": "video"},
        "iteration": 4, "context": "A ball.", "context_prev": "A dog.", "answers": list(ANSWERS),
        "finished": [True, True], "lengths": [4, 3],
        "choice": 2, "reason": None, "choices": [2, 2], "raw": ["the likelier", "the likelier"],
        "scores": [[-3.0, -1.0], [-2.0, -0.5]], "judge": {"judge": "self"}, "model": {"name": "m"},
        "sampling": {"top_p": 0.95},
    }  # fmt: skip
    (pair,), dropped = judged_pairs([row], 3)
    assert dropped == [] and pair == {
        "key": "v", "id": "p/round-3", "prompt": "What?", "ground_truth": "g", "mode": "dpo", "round": 3,
        "chosen": "a ball stops", "rejected": "a ball moves left",
        "meta": {
            "scope": "video", "context": "A ball.", "context_prev": "A dog.", "judge": {"judge": "self"},
            "model": {"name": "m"},
            "verdict": {k: row[k] for k in ("iteration", "choices", "scores", "raw")},
        },
    }  # fmt: skip


ONE, TWO = "My choice is Response 1", "My choice is Response 2"


@pytest.mark.parametrize(
    ("straight", "swapped", "choice", "choices", "reason"),
    [
        (ONE, TWO, 1, [1, 1], None),
        (TWO, ONE, 2, [2, 2], None),
        (ONE, ONE, None, [1, 2], "inconsistent"),
        (TWO, TWO, None, [2, 1], "inconsistent"),
        (ONE, "Both are good.", None, [1, None], "unparsable"),
        (f"{ONE}. {TWO}.", ONE, None, [None, 2], "unparsable"),
        (scored(-1.0, -1.0), scored(-1.0, -2.0), None, [None, 2], "unparsable"),
    ],
)
def test_only_what_both_orders_prefer_counts(straight, swapped, choice, choices, reason):
    row = judged(straight, swapped)
    assert (row["choice"], row["choices"], row["reason"]) == (choice, choices, reason)
    pairs, dropped = judged_pairs([row], 0)
    assert len(pairs) == (choice is not None) and [each["reason"] for each in dropped] == [reason] * (not pairs)


@pytest.mark.parametrize(
    ("answers", "reason"), [(("same", " same\n"), "equal"), (("", "word"), "empty"), ((" ", " "), "empty")]
)
def test_what_cannot_be_compared_is_not_asked_about_and_keeps_its_row(answers, reason):
    row = judged("", "", answers)
    assert (row["choice"], row["reason"], row["raw"], row["choices"]) == (None, reason, [None, None], [None, None])
    assert questions(comparisons(candidates(*answers), CONTEXTS, 1), PROMPTS) == []


def test_an_answer_that_was_cut_may_lose_and_must_not_win():
    compared = [row | {"finished": row["candidate"] == 0} for row in candidates(*ANSWERS)]
    (row,) = comparisons(compared, CONTEXTS, 1)
    assert row["finished"] == [True, False]
    for winner, reason in ((1, None), (2, "unfinished")):
        asked = questions([row], PROMPTS)
        replies = [each | {"response": text} for each, text in zip(asked, (ONE, TWO)[:: 3 - 2 * winner], strict=True)]
        (verdict,) = verdict_rows([row], read_replies(replies, asked, PROMPTS), {})
        assert (verdict["choice"], verdict["reason"]) == (winner if reason is None else None, reason)
        assert verdict["choices"] == [winner, winner]


def test_another_judge_is_asked_the_same_way():
    compared = comparisons(candidates(*ANSWERS) + candidates("x", "x", "q"), CONTEXTS, 1)
    rows = verdict_rows(compared, ask_judge(compared, LongerWins()), LongerWins().identity)
    assert [(row["choice"], row["choices"], row["reason"]) for row in rows] == [
        (1, [1, 1], None), (None, [None, None], "equal")
    ]  # fmt: skip


def test_a_bias_towards_a_place_is_told():
    fair, first = judged(ONE, TWO), judged(ONE, ONE)
    assert "first place in 50% of both" in verdict_counts([fair]) and "in 100% of both" in verdict_counts([first])
    assert "in 75% of both" in verdict_counts([fair, first]) and "in 0% of both" in verdict_counts([judged(TWO, TWO)])
    assert "in 100% of both" in verdict_counts([judged(ONE, "?")])
    assert "first place" not in verdict_counts([judged("", "", ("", "a"))])
    rows = [fair] * 3 + [first] * 47
    check_enough(rows, 3)
    message = (
        r"3 pairs are fewer than min_pairs \(4\): 3 of 50 .*\{'inconsistent': 47\}\); .*first place in 97% of both"
    )
    with pytest.raises(ValueError, match=message):
        check_enough(rows, 4)


def test_replies_that_are_missing_or_answer_something_else_are_refused():
    compared = comparisons(candidates(*ANSWERS), CONTEXTS, 1)
    asked = questions(compared, PROMPTS)
    replies = [row | {"response": ONE} for row in asked]
    with pytest.raises(ValueError, match="question p/order-21 has no reply"):
        read_replies(replies[:1], asked, PROMPTS)
    (row,) = verdict_rows(compared, read_replies(replies[:1], asked, PROMPTS, whole=False), {})
    assert (row["reason"], row["raw"], row["choices"]) == ("unparsable", [ONE, None], [1, None])
    replies[1]["prompt"] = "something else"
    with pytest.raises(ValueError, match="the reply to p/order-21 answers another question"):
        read_replies(replies, asked, PROMPTS)
    with pytest.raises(ValueError, match="prompt p has 3 answers; a comparison needs two"):
        comparisons(candidates(*ANSWERS) + candidates("c", "d")[:1], CONTEXTS, 1)


def test_much_longer_winners_are_left_out_where_a_cap_is_set():
    rows = [judged(ONE, TWO, ("one two three four", "one two")), judged(ONE, TWO, ("one two three", "one two"))]
    rows = [row | {"id": f"{row['id']}-{number}"} for number, row in enumerate(rows)]
    assert len(judged_pairs(rows, 0)[0]) == 2
    kept, dropped = judged_pairs(rows, 0, max_length_ratio=1.5)
    assert [pair["chosen"] for pair in kept] == ["one two three"]
    assert dropped == [{"prompt_id": rows[0]["id"], "key": rows[0]["key"], "reason": "length_ratio"}]


def test_verdicts_may_quote_the_responses():
    quoting = RetrospectionPrompts(verdicts=("{first} It is Response 1.", "{second} It is Response 2."))
    asked = questions(comparisons(candidates("a", "b"), CONTEXTS, 1), quoting)
    assert asked[0]["meta"]["options"] == ["a It is Response 1.", "b It is Response 2."]
    assert asked[1]["meta"]["options"] == ["b It is Response 1.", "a It is Response 2."]
    with pytest.raises(ValueError, match=r"verdicts may have the slots first and second, got \['third'\]"):
        RetrospectionPrompts(verdicts=("{third}", "b"))


@pytest.mark.parametrize(
    "penalty, scores, choice", [(0.0, (-3.0, -4.0), 1), (0.5, (-1.5, -4 / 3), 2), (1.0, (-0.75, -4 / 9), 2)]
)
def test_verdicts_of_different_lengths_compare_by_the_penalty(penalty, scores, choice):
    prompts = RetrospectionPrompts(length_penalty=penalty)
    asked = questions(comparisons(candidates(*ANSWERS), CONTEXTS, 1), prompts)
    opinions = read_replies([row | scored(-3.0, -4.0) for row in asked], asked, prompts)
    for opinion in opinions.values():
        assert opinion.choice == choice and opinion.scores == pytest.approx(scores)
