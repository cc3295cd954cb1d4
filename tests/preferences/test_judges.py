"""Judges: exact counts, replies recorded once and read back, and nobody answers for what was not recorded."""

import json

import pytest

from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.preferences.judges import ExactJudge, Judge, RecordedJudge, Reply, Request


def counts(missed=0, events=4):
    return CaptionCounts(events, missed, 0, 0, 0, 1, 2, 0, 9, 0)


def by_length(text, record):
    return counts(len(text) % 3)


class Slow:
    """Counts how often it is asked."""

    identity = {"judge": "slow", "prompt": "abc"}

    def __init__(self):
        self.asked = []

    def score(self, requests):
        self.asked += [request.text for request in requests]
        return [Reply(None if r.text == "?" else counts(len(r.text) % 3), f"raw {r.text}") for r in requests]


def request(text, **record):
    return Request(text, True, {"key": "a", "ground_truth": "b"} | record)


def test_a_judge_is_asked_about_the_events_of_the_interval_alone():
    times = {"early": (0.0, 2.0), "across": (1.0, 3.0), "late": (2.0, 4.5)}
    events = [{"text": text, "start_s": start, "end_s": end} for text, (start, end) in times.items()]

    def asked(**meta):
        return [event["text"] for event in request("a", events=events, meta=meta).events]

    assert asked() == asked(scope="video") == list(times)
    assert asked(interval=[0.0, 2.0]) == ["early"]  # the middle of the second is 2.0, where the interval has ended
    assert asked(interval=[2.0, 4.0]) == ["across", "late"]
    assert asked(interval=[4.0, 9.0]) == [] == request("a", meta={"interval": [0, 1]}).events
    with pytest.raises(ValueError, match="asks about an interval; give each event start_s and end_s"):
        request("a", events=[{"text": "a dog barks"}], meta={"interval": [0, 1]}).events  # noqa: B018
    assert request("a", events=[{"text": "a dog barks"}]).events == [{"text": "a dog barks"}]


def test_the_exact_judge_counts_by_its_scorer():
    judge = ExactJudge(by_length)
    assert isinstance(judge, Judge)
    assert [reply.counts.missed for reply in judge.score([request("a"), request("ab")])] == [1, 2]
    assert judge.identity == {"judge": f"{__name__}.by_length"}


def test_replies_are_asked_for_once_and_read_back_without_the_judge(tmp_path):
    path, slow = str(tmp_path / "replies.jsonl"), Slow()
    judge = RecordedJudge(path, slow)
    first = judge.score([request("a"), request("?"), request("a")])
    assert slow.asked == ["a", "?"] and first[1].counts is None and first[0] == first[2]
    assert RecordedJudge(path, slow).score([request("?"), request("a")]) == [first[1], first[0]]
    alone = RecordedJudge(path)
    assert alone.score([request("a")]) == first[:1] and slow.asked == ["a", "?"]
    assert alone.identity == {"judge": "recorded", "recorded": [Slow.identity]}
    with pytest.raises(ValueError, match=r"holds no reply to 1 requests \(first: video 'a', 'new'\)"):
        alone.score([request("new")])


def test_a_request_is_known_by_text_and_truth():
    same = [request("a"), request("a", weight=2.0)]
    others = [request("b"), request("a", ground_truth="c"), request("a", meta={"scope": "interval"})]
    others.append(Request("a", False, {"key": "a", "ground_truth": "b"}))
    assert len({each.key for each in same}) == 1 and len({each.key for each in [same[0], *others]}) == 5


def test_a_killed_writer_leaves_half_a_line_that_is_asked_again(tmp_path):
    path = tmp_path / "replies.jsonl"
    RecordedJudge(str(path), Slow()).score([request("a"), request("ab")])
    path.write_text(path.read_text()[:-9])
    slow = Slow()
    RecordedJudge(str(path), slow).score([request("a"), request("ab")])
    assert slow.asked == ["ab"]


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="give the file of recorded replies, or a judge"):
        RecordedJudge(str(tmp_path / "absent.jsonl"))
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps({"counts": {}}) + "\n")
    with pytest.raises(ValueError, match="line 1: not a recorded reply"):
        RecordedJudge(str(path))
