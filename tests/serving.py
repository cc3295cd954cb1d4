"""A chat server on the loopback for tests: canned answers, and what it was sent."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/v1/chat/completions"


def reply(text, finish_reason="stop", tokens=3):
    """A well-formed answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return 200, {"choices": [choice], "usage": {"completion_tokens": tokens}}


class ChatServer:
    """What the server was sent, and what it says.

    Args:
        respond: Request body -> (status, JSON or raw text[, headers]).
        key: The key that it takes; None takes all.
    """

    def __init__(self, respond, key=None):
        self.respond, self.key, self.lock = respond, key, threading.Lock()
        self.bodies, self.headers, self.active, self.most = [], [], 0, 0
        self.url = None

    def handle(self, path, headers, body):
        with self.lock:
            self.bodies.append(body)
            self.headers.append(dict(headers))
            self.active += 1
            self.most = max(self.most, self.active)
        try:
            if path != PATH:
                return 404, {"error": f"no {path}"}
            if self.key is not None and headers.get("Authorization") != f"Bearer {self.key}":
                return 401, {"error": f"wrong key: {headers.get('Authorization')}"}
            return self.respond(body)
        finally:
            with self.lock:
                self.active -= 1


@contextmanager
def serving(respond, key=None):
    """A server in threads of its own; `url` is where it listens."""
    chat = ChatServer(respond, key)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content, *more = chat.handle(self.path, self.headers, body)
            payload = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
