"""A receiver of webhooks on a loopback port: it keeps what it gets, and a test sets its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Answer = "Callable[[BaseHTTPRequestHandler], None]"


def answer_with(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


class WebhookReceiver:
    """Keeps the verified payload and the headers of each webhook that arrived."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.payloads: list[Any] = []
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.always = answer_with(204)
        self.arrived = threading.Semaphore(0)  # released once for each, after its answer
        self.url = ""

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers in self.headers]

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.paths.append(request.path)
        self.headers.append(headers)
        self.payloads.append(Webhook(SECRET).verify(body, headers))
        answer = self.answers.pop(0) if self.answers else self.always
        try:
            answer(request)
        finally:
            self.arrived.release()


@contextmanager
def running_receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self)

        def log_message(self, *_: object) -> None:
            """Tests print nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that went away meanwhile."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        receiver.url = f"http://127.0.0.1:{server.server_port}/notices?of=jobs"
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
