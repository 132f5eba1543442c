"""Serve responses byte by byte, and make a client of the judge API for them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from worker.remote import JudgeAPI

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@contextmanager
def serving(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Serve on a free port: `talk` handles each connection, one by one, until the event is set."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=_accept, args=(listener, talk, over))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def _accept(
    listener: socket.socket,
    talk: Callable[[socket.socket, threading.Event], None],
    over: threading.Event,
) -> None:
    while not over.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            try:
                talk(connection, over)
            except OSError:
                continue  # the client has gone: that is what some of these tests are about


def client(url: str, **options: Any) -> JudgeAPI:
    return JudgeAPI(base_url=url, api_key="k-123456", **options)


def without_proxies(patched: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        patched.delenv(name, raising=False)
        patched.delenv(name.upper(), raising=False)
