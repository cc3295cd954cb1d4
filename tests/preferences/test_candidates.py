"""Selection by hand: best against worst, and why a prompt gives no pair."""

import pytest

from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.preferences.candidates import best_answers, select_pairs
from lit_vpo.preferences.judges import ExactJudge, Reply


def counts(text, record):
    """Texts say what was counted: "missed incorrect hallucinated repeated", over ten events."""
    missed, incorrect, hallucinated, repeated = map(int, text.split()[:4])
    return CaptionCounts(record.get("num", 10), missed, incorrect, hallucinated, 0, 1, 5, repeated, 9, 0)


JUDGE = ExactJudge(counts)


def candidates(*texts, prompt_id="p", **more):
    row = {"key": "k", "prompt": "Describe.", "ground_truth": "gt", "model": {"name": "m"}, "finished": True}
    return [
        row | {"prompt_id": prompt_id, "id": f"{prompt_id}/candidate-{n}", "candidate": n, "response": text} | more
        for n, text in enumerate(texts)
    ]


def test_best_against_worst_of_three():
    (pair,), dropped = select_pairs(candidates("2 0 0 0", "0 1 0 0", "1 1 1 0"), JUDGE, round_index=3)
    assert (pair["chosen"], pair["rejected"]) == ("0 1 0 0", "1 1 1 0")
    assert pair["scores"] == pytest.approx({"chosen": 0.1, "rejected": 0.3})
    assert (pair["id"], pair["key"], pair["prompt"], pair["round"]) == ("p/round-3", "k", "Describe.", 3)
    assert pair["ground_truth"] == "gt" and pair["meta"]["model"] == {"name": "m"}
    assert pair["meta"]["judge"] == JUDGE.identity and not dropped


def test_repetition_breaks_ties_of_the_error():
    (pair,), _ = select_pairs(candidates("1 0 0 2", "1 0 0 0", "3 0 0 0", "3 0 0 1"), JUDGE)
    assert (pair["chosen"], pair["rejected"]) == ("1 0 0 0", "3 0 0 1")


@pytest.mark.parametrize(
    "texts, more, reason",
    [
        (["1 0 0 0"], {}, "one_candidate"),
        (["1 0 0 0", "1 0 0 0 again"], {}, "margin"),
        (["1 0 0 1", "3 0 0 0"], {}, "winner_repeats"),
        (["1 0 0 0", "3 0 0 0"], {"finished": False}, "winner_unfinished"),
        (["1 0 0 0", "3 0 0 0"], {"num": 0}, "no_events"),
    ],
)
def test_why_a_prompt_gives_no_pair(texts, more, reason):
    pairs, dropped = select_pairs(candidates(*texts, **more), JUDGE)
    assert not pairs and dropped == [{"prompt_id": "p", "key": "k", "reason": reason}]


def test_a_verdict_that_cannot_be_read_makes_no_pair():
    class Half:
        identity = {"judge": "half"}

        def score(self, requests):
            return [Reply(None), *JUDGE.score(requests[1:])]

    assert select_pairs(candidates("1 0 0 0", "3 0 0 0"), Half())[1][0]["reason"] == "not_judged"


def test_the_margin_is_in_errors_per_event():
    rows = candidates("1 0 0 0", "2 0 0 0") + candidates("1 0 0 0", "3 0 0 0", prompt_id="q")
    pairs, dropped = select_pairs(rows, JUDGE, margin=0.15)
    assert [pair["id"] for pair in pairs] == ["q/round-0"] and [row["prompt_id"] for row in dropped] == ["p"]
    with pytest.raises(ValueError, match="margin must be >= 0"):
        select_pairs(rows, JUDGE, margin=-1)


def test_the_best_answer_to_each_prompt_stands_under_the_prompts_id():
    sampled = candidates("2 0 0 0", "0 0 1 1") + candidates("3 0 0 0", "0 1 0 0", prompt_id="q")
    common = {"key": "k", "prompt": "Describe.", "finished": True}
    greedy = [common | {"id": "p", "response": "0 0 1 0"}, common | {"id": "q", "response": "9 0 0 0"}]
    assert [(row["id"], row["response"], row["best_of"]) for row in best_answers(sampled, JUDGE)] == [
        ("p", "0 0 1 1", 2),
        ("q", "0 1 0 0", 2),
    ]
    assert [(row["response"], row["best_of"]) for row in best_answers(greedy + sampled, JUDGE)] == [
        ("0 0 1 0", 3),
        ("0 1 0 0", 3),
    ]
    assert not {"prompt_id", "candidate"} & set(best_answers(sampled, JUDGE)[0])


def test_of_equally_many_errors_the_less_repetitive_and_then_the_first_is_best():
    rows = candidates("1 0 0 2", "0 1 0 0 first", "0 0 1 0 second")
    assert [row["response"] for row in best_answers(rows, JUDGE)] == ["0 1 0 0 first"]
    nothing_happens = candidates("0 0 2 0", "0 0 1 0", num=0)  # no errors per event, but errors
    assert [row["response"] for row in best_answers(nothing_happens, JUDGE)] == ["0 0 1 0"]


def test_best_of_one_is_no_choice():
    with pytest.raises(ValueError, match="prompt p needs two candidates or more, all of them judged; got 1"):
        best_answers(candidates("1 0 0 0"), JUDGE)
