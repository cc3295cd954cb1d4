"""Written verdicts: what is told is read, and nothing is guessed."""

import pytest

from lit_vpo.preferences.judges.verdicts import parse_verdict

TOLD = [
    ("My choice is Response 1", 1),
    ("My choice is Response 2.", 2),
    ("my choice is response 2", 2),  # lower-case
    ('My choice is "Response 1".', 1),  # quoted
    ("'My choice is Response 2'", 2),
    ("**My choice is Response 2**", 2),
    ("My choice is ... y1!", 1),  # the paper's figure
    ("My choice is:\n\nResponse 2", 2),
    ("Choice: B", 2),
    ("I choose answer a because it tells the order.", 1),
    ("I prefer Response 2 to Response 1.", 2),
    ("Response 1 is better than Response 2.", 1),
    ("Compared to Response 1, Response 2 is better.", 2),
    ("The better response is Response 2 rather than Response 1", 2),
    ("My choice is Response 1, not Response 2.", 1),
    ("My choice is not Response 1 but Response 2.", 2),
    ("Response 1 is better because it mentions 2 dogs.", 1),
    ("Better: A because the video shows A dog and 1 cat", 1),
    ("Response 1 mentions a dog. There is none in the video.\nMy choice is Response 2.", 2),  # reasoning first
    ("Response 1 seems better at first sight. But it misses the end. My choice is Response 2.", 2),
    ("Response 1 is better in detail. On the whole I prefer Response 2.", 2),
    ("My choice is Response 1. Response 2 is better at colours alone.", 1),  # reasoning last
    ("1", 1),
    (" Response 2. ", 2),
    ('"B"', 2),
]
NOT_TOLD = [
    "",
    "Both responses describe the video.",
    "Neither response is better.",
    "My choice is neither Response 1 nor Response 2.",
    "My choice is Response 1 or Response 2",  # the wording of the question itself
    "My choice is Response 1. My choice is Response 2.",  # contradictory
    "Response 1 is better. Response 2 is better.",
    "Response 1 is not better.",
    "I don't prefer Response 2.",
    "My choice is Response 3.",
    "A better description would name the dog.",
    "Response 1 and 2 are equally good, neither is better.",
    "First, the red square moves left.",
]


@pytest.mark.parametrize(("reply", "place"), TOLD)
def test_what_is_told_is_read(reply, place):
    assert parse_verdict(reply) == place


@pytest.mark.parametrize("reply", NOT_TOLD)
def test_nothing_is_guessed(reply):
    assert parse_verdict(reply) is None


@pytest.mark.parametrize(("reply", "place"), TOLD)
def test_exchanged_labels_exchange_the_verdict(reply, place):
    """Whatever the wording, 1 and 2 (a and b) are treated alike."""
    exchange = str.maketrans("12", "21")
    if not any(letter in reply for letter in ("answer a", "A ", "B")):
        assert parse_verdict(reply.translate(exchange)) == 3 - place
