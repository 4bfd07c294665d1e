"""A server with an OpenAI-compatible API that does what a test says."""

import http.server
import json
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Reply(NamedTuple):
    """What is sent back: `cut` bytes are held back and the connection closed."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    cut: int = 0


class Stub:
    """`answer(body, number)` gives the reply to the call of that number, from 0."""

    reply = Reply
    key = "sk-test-0123456789abcdef"

    def __init__(self):
        self.answer: Callable[[dict, int], Reply] = lambda *_: self.completion("echo")
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.authorizations: set[str] = set()
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    @staticmethod
    def completion(text, *, finish="stop", refusal=None, usage=(7, 3)):
        message = {"role": "assistant", "content": text, "refusal": refusal}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        if usage:
            body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        return Reply(body=json.dumps(body).encode())

    @staticmethod
    def failure(status, message, *, code=None, headers=()):
        error = {"error": {"message": message, "type": "x", "code": code}}
        return Reply(status, json.dumps(error).encode(), tuple(headers))

    def prompts(self):
        """The last message of each call, in order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def serve(self, handler):
        with self.lock:
            number = len(self.bodies)
            length = int(handler.headers["Content-Length"])
            self.bodies.append(json.loads(handler.rfile.read(length)))
            self.times.append(time.monotonic())
            self.authorizations.add(handler.headers["Authorization"])
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        reply = self.answer(self.bodies[number], number)
        time.sleep(reply.seconds)
        with self.lock:
            self.under_way -= 1
        handler.send_response(reply.status)
        for name, value in reply.headers:
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body[: len(reply.body) - reply.cut])
        if reply.cut:
            handler.close_connection = True


@pytest.fixture
def stub(monkeypatch):
    made = Stub()
    monkeypatch.setenv("OPENAI_API_KEY", made.key)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            try:
                made.serve(self)
            except (BrokenPipeError, ConnectionResetError):
                # The client gave up.
                self.close_connection = True

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield made
        server.shutdown()
