"""Contexts: who is asked for which, and what a judge reads."""

import pytest

from lit_vpo.preferences.contexts import (
    JudgeContexts,
    RetrospectionPrompts,
    context_prompts,
    context_rows,
    true_events,
)

PROMPTS = RetrospectionPrompts("Describe.", "Before: {context} Better?", "[{context}] ")
PREVIOUS = {"a": {"key": "a", "context": "A ball {moves}.", "context_prev": None}}


def test_a_context_goes_on_from_the_previous_one_and_begins_from_a_plain_prompt():
    rows = context_prompts(["b", "a", "b"], PREVIOUS, PROMPTS, "own")
    assert rows == [
        {"key": "a", "id": "a", "prompt": "Before: A ball {moves}. Better?", "history": [],
         "context_prev": "A ball {moves}."},
        {"key": "b", "id": "b", "prompt": "Describe.", "history": [], "context_prev": None},
    ]  # fmt: skip
    answered = [row | {"response": f" {row['key']}! ", "finished": True} for row in rows]
    after = context_rows(answered, 2)
    assert after["a"] == {
        "key": "a", "id": "a", "context": "a!", "context_prev": "A ball {moves}.", "finished": True, "iteration": 2
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "asked"), [("own", "ab"), ("other", "ab"), ("stale", "b"), ("none", ""), ("oracle", "")]
)
def test_who_is_asked(source, asked):
    assert [row["key"] for row in context_prompts(["a", "b"], PREVIOUS, PROMPTS, source)] == list(asked)


def test_what_a_judge_reads():
    contexts = {key: {"context": key.upper(), "context_prev": f"{key}-"} for key in "abc"}
    read = {
        s: [JudgeContexts(s, contexts, str.lower).of({"key": key}) for key in "abc"] for s in ("own", "stale", "other")
    }
    assert read["own"] == read["stale"] == [("A", "a-"), ("B", "b-"), ("C", "c-")]
    assert read["other"] == [("B", "b-"), ("C", "c-"), ("A", "a-")]
    assert JudgeContexts("none", {}, true_events).of({"key": "a"}) == (None, None)
    assert JudgeContexts("oracle", {}, lambda record: record["truth"]).of({"truth": "T"}) == ("T", None)
    with pytest.raises(ValueError, match="video 'd' has no context"):
        JudgeContexts("own", contexts, true_events).of({"key": "d"})
    with pytest.raises(ValueError, match="two videos or more, got 1"):
        JudgeContexts("other", {"a": {}}, true_events)


def test_true_events():
    events = [{"text": "the ball moves", "modality": "visual"}, {"text": "a beep sounds", "modality": "audio"}]
    assert true_events({"events": [*events, {"text": "It stops."}]}) == "The ball moves. It stops."
    assert true_events({"events": []}) == "Nothing happens."
    assert true_events({"ground_truth": "A ball."}) == "A ball."
    with pytest.raises(ValueError, match="record 'x' has neither"):
        true_events({"id": "x"})


def test_the_judge_is_told_nothing_where_there_is_no_context():
    prompts = RetrospectionPrompts(description="[{context}] ", judge="{description}{question} 1: {first} 2: {second}")
    assert prompts.question("Q?", "C {x}", "one", "two") == "[C {x}] Q? 1: one 2: two"
    assert prompts.question("Q?", None, "one", "two") == "Q? 1: one 2: two"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"next_context": "Look again."}, r"prompts\.next_context must have the slots \['context'\], got \[\]"),
        ({"first_context": "Before: {context}"}, r"prompts\.first_context must have the slots \[\]"),
        ({"judge": "{question} {first}"}, r"prompts\.judge must have the slots \['description', 'first'"),
        ({"verdicts": ("one", " one")}, "two different texts"),
        ({"length_penalty": 1.5}, r"length_penalty must be in \[0, 1\], got 1.5"),
    ],
)
def test_wordings_without_their_slots_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RetrospectionPrompts(**wrong)
