"""An OpenAI-compatible endpoint in this process, whose answers and faults a test defines."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "sk-very-secret"


def answer(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


class Server(ThreadingHTTPServer):
    """Answers a dialogue with its text in capitals, unless `script(content, number_of_the_try)` returns an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: Callable[[str, int], Any] = lambda content, number: None
        self.contents: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        with server.lock:
            server.contents.append(content)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.paths.append(self.path)
            number = server.contents.count(content)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        planned = server.script(content, number) or (200, answer(content.upper()), {})
        with server.lock:
            server.at_once -= 1
        if planned == "hang":
            server.over.wait()
            return
        if planned == "close":
            self.close_connection = True
            return
        status, record, headers = planned
        data = record.encode() if isinstance(record, str) else json.dumps(record).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()
