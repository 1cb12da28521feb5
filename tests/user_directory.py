"""A service that knows users, over real HTTP, which can be told to misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Directory:
    """A user service on the loopback interface.

    Args:
        judge: returns the user a question is about, or None to refuse.

    Attributes:
        plan: what to do about the next questions, one each, before answering normally: a status, ``garbage``,
            ``hang`` or ``drop``.
        questions: what was asked.
    """

    def __init__(self, judge: Callable[[dict[str, Any]], str | None]) -> None:
        self.judge = judge
        self.plan: list[int | str] = []
        self.questions: list[dict[str, Any]] = []
        self.released = threading.Event()
        directory = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                directory.questions.append(json.loads(body))
                directory.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/users"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        user = self.judge(self.questions[-1])
        step = self.plan.pop(0) if self.plan else 403 if user is None else 200
        if step == "hang":
            self.released.wait(30)
            return
        if step == "drop":
            handler.close_connection = True
            return
        body = b"<html>" if step == "garbage" else json.dumps({"user": user}).encode()
        handler.send_response(step if isinstance(step, int) else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
