"""The client of a chat server, against a real one on the loopback."""

import logging
import socket

import pytest
from serving import reply, serving

from lit_vpo.endpoint import KEY_VARIABLE, Answer, ChatEndpoint, Refused

MESSAGES = [{"role": "user", "content": "What moves?"}]
KEY = "very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def endpoint(url, **more):
    return ChatEndpoint(url, "policy", **{"num_retries": 3, "backoff_s": 0.01} | more)


def in_turn(*replies):
    left = list(replies)
    return lambda body: left.pop(0)


def test_what_is_sent_and_what_comes_back():
    with serving(in_turn(reply("a star", tokens=7), reply("a st", "length"))) as server:
        asked = endpoint(server.url + "/")
        assert asked.ask(MESSAGES, temperature=1.0, seed=5) == Answer("a star", True, 7)
        assert asked.ask(MESSAGES) == Answer("a st", False, 3)
    first = {"model": "policy", "messages": MESSAGES, "temperature": 1.0, "seed": 5}
    assert server.bodies == [first, {"model": "policy", "messages": MESSAGES}]
    assert "Authorization" not in server.headers[0]


def test_the_key_comes_from_the_environment_and_is_told_nobody_else(monkeypatch, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\n")
    with serving(in_turn(reply("a"), (400, f"bad request of {KEY}")), KEY) as server:
        asked = endpoint(server.url)
        assert asked.ask(MESSAGES).text == "a" and server.headers[0]["Authorization"] == f"Bearer {KEY}"
        with pytest.raises(Refused, match=r"status 400: bad request of \*\*\*"):
            asked.ask(MESSAGES)
    with (
        serving(in_turn(), "another") as server,
        pytest.raises(ValueError, match="does not take the key in") as refused,
    ):
        endpoint(server.url).ask(MESSAGES)
    assert len(server.bodies) == 1  # not tried again
    told = caplog.text + str(refused.value) + "".join(capsys.readouterr())
    assert KEY_VARIABLE in told and KEY not in told
    monkeypatch.delenv(KEY_VARIABLE)
    with serving(in_turn(), KEY) as server, pytest.raises(ValueError, match=f"wants a key in .* {KEY_VARIABLE}"):
        endpoint(server.url).ask(MESSAGES)


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"error": "slow down"}, {"Retry-After": "0"}),
        (429, "slow down", {"Retry-After": "Sat, 21 Nov 2026 21:00:00 GMT"}),
        (500, "oh no"),
        (503, "starting"),
        (200, "not JSON"),
        (200, {"choices": []}),
        (200, {"choices": [{"message": {}, "finish_reason": "stop"}]}),
        (200, {"choices": [{"message": {"content": ["parts"]}, "finish_reason": "stop"}]}),
        (200, []),
    ],
)
def test_what_may_pass_is_tried_again_and_not_for_ever(trouble):
    with serving(in_turn(trouble, trouble, reply("at last"))) as server:
        assert endpoint(server.url).ask(MESSAGES).text == "at last"
        assert len(server.bodies) == 3
    with serving(lambda body: trouble) as server:
        said = "a reply that cannot be read" if trouble[0] == 200 else f"status {trouble[0]}: "
        with pytest.raises(ValueError, match=rf"in 2 attempts \({said}.*what is answered is kept") as error:
            endpoint(server.url, num_retries=1).ask(MESSAGES)
        assert len(server.bodies) == 2 and not isinstance(error.value, Refused)


def test_each_wait_is_twice_the_last_or_what_the_server_asks_for(monkeypatch):
    waits = []
    monkeypatch.setattr("lit_vpo.endpoint.time.sleep", waits.append)
    busy = (429, "", {"Retry-After": "7"})
    with serving(
        in_turn((500, ""), (500, ""), busy, (500, ""), (429, "", {"Retry-After": "9999"}), reply("a"))
    ) as server:
        endpoint(server.url, num_retries=5, backoff_s=1.0).ask(MESSAGES)
    assert waits == [1.0, 2.0, 7.0, 8.0, 60.0]


def test_nobody_there_and_no_such_model():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ValueError, match=r"no answer in 2 attempts \(ConnectError\)"):
            endpoint(url, num_retries=1).ask(MESSAGES)
    with serving(in_turn()) as server, pytest.raises(ValueError, match=r"has no model 'policy' .*/v2/models"):
        endpoint(server.url.replace("v1", "v2")).ask(MESSAGES)
    assert len(server.bodies) == 1


def test_settings_that_cannot_work(monkeypatch):
    for url in (
        "localhost:8000/v1",
        "ftp://host/v1",
        f"http://user:{KEY}@host/v1",
        f"http://host/v1?key={KEY}",
        "http://",
    ):
        with pytest.raises(ValueError, match="must look like http://HOST:PORT/v1") as error:
            ChatEndpoint(url, "policy")
        assert KEY not in str(error.value)
    for wrong in ({"num_retries": -1}, {"backoff_s": -1.0}, {"timeout_s": 0}):
        with pytest.raises(ValueError, match="need num_retries >= 0"):
            ChatEndpoint("http://host/v1", "policy", **wrong)
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\nsecond line")
    with pytest.raises(ValueError, match="characters that no header can hold") as error:
        ChatEndpoint("http://host/v1", "policy")
    assert KEY not in str(error.value)
