"""Answers of an OpenAI-compatible server, such as vLLM that serves an exported policy.

The key stands in the environment alone: it is in no argument, no log and no message.
"""

import os
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# the continuation of httpx, which huggingface_hub brings along
import httpx2 as httpx

KEY_VARIABLE = "LIT_VPO_API_KEY"
_PASSING = {408, 409, 425, 429}  # and all from 500 on: the same request may be answered later
_LONGEST_WAIT_S = 60.0


class Answer(NamedTuple):
    """What the server said.

    Attributes:
        text: The response.
        finished: Whether it ended by itself.
        num_tokens: Of the response; None where the server does not count.
    """

    text: str
    finished: bool
    num_tokens: int | None


class Refused(ValueError):
    """The server will never answer this request; it may answer others."""


class _Again(Exception):
    """The same request may be answered later."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class ChatEndpoint:
    """`/chat/completions` of one server and model; may be shared by threads.

    Overload, errors of the server, lost connections and replies that cannot be read are tried again, each time after
    twice the wait (or as long as the server asks for).

    Args:
        url: Such as `http://localhost:8000/v1`.
        model: The name under which the server has it.
        num_retries: Further attempts at a request.
        backoff_s: Seconds before the first of them.
        timeout_s: Seconds that an answer may take.

    Raises:
        ValueError: If the URL is none of http or https, or holds a user, password or query: they would stand in logs.
    """

    def __init__(
        self, url: str, model: str, num_retries: int = 6, backoff_s: float = 1.0, timeout_s: float = 600.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError(
                "the endpoint's URL must look like http://HOST:PORT/v1, without user, password or query; a key goes "
                f"into the environment variable {KEY_VARIABLE}"
            )
        if num_retries < 0 or not backoff_s >= 0 or not timeout_s > 0:
            raise ValueError(
                f"need num_retries >= 0, backoff_s >= 0 and timeout_s > 0, got {num_retries}, {backoff_s}, {timeout_s}"
            )
        self.url, self.model = url.rstrip("/"), model
        self.num_retries, self.backoff_s = num_retries, backoff_s
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(
                f"the key in the environment variable {KEY_VARIABLE} has characters that no header can hold"
            )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout_s, connect=10.0))

    def ask(self, messages: list[dict[str, Any]], **settings: Any) -> Answer:
        """One answer.

        Args:
            messages: The conversation, as the API takes it.
            settings: Further fields of the request, such as temperature and seed.

        Raises:
            Refused: If the server will not answer this request.
            ValueError: If it answers none: it does not know the key or the model, or all attempts have failed.
        """
        body = {"model": self.model, "messages": messages, **settings}
        for attempt in range(self.num_retries + 1):
            try:
                return self._attempt(body)
            except _Again as again:
                reason, wait_s = str(again), max(self.backoff_s * 2**attempt, again.wait_s)
            if attempt < self.num_retries:
                time.sleep(min(wait_s, _LONGEST_WAIT_S))
        raise ValueError(
            f"{self.url} gave no answer in {self.num_retries + 1} attempts ({reason}); "
            "look at the server, then run the same command again: what is answered is kept"
        )

    def _attempt(self, body: dict[str, Any]) -> Answer:
        try:
            response = self._client.post(f"{self.url}/chat/completions", json=body)
        except httpx.TransportError as error:
            raise _Again(type(error).__name__) from None
        status = response.status_code
        if status in _PASSING or status >= 500:
            raise _Again(self._said(response), _seconds(response.headers.get("Retry-After", "")))
        if status in (401, 403):  # what the server says may repeat the key
            has = "does not take the key in" if self._key else "wants a key in"
            raise ValueError(f"{self.url} {has} the environment variable {KEY_VARIABLE} (status {status})")
        if status == 404:
            raise ValueError(f"{self.url} has no model {self.model!r} (status 404); see {self.url}/models")
        if status != 200:
            raise Refused(self._said(response))
        return _read(response)

    def _said(self, response: httpx.Response) -> str:
        text = response.text.replace(self._key, "***") if self._key else response.text
        return f"status {response.status_code}: {text[:300]}"


def _read(response: httpx.Response) -> Answer:
    try:
        reply = response.json()
        choice = reply["choices"][0]
        text, finished = choice["message"]["content"] or "", choice["finish_reason"] == "stop"
        num_tokens = (reply.get("usage") or {}).get("completion_tokens")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Again("a reply that cannot be read") from None
    if not isinstance(text, str) or not isinstance(num_tokens, int | None):
        raise _Again("a reply that cannot be read")
    return Answer(text, finished, num_tokens)


def _seconds(text: str) -> float:
    """Of a Retry-After header; a date counts as nothing."""
    return float(text) if text.isdecimal() else 0.0
