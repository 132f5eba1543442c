"""Connections that send nothing, or too slowly, keep nobody out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from tests.support.servers import wait_until
from worker.http_server import bind_socket, connections, serve_in_background, server
from worker.http_server.connections import Phase

MAXIMUM = 8
released = threading.Event()
waiting_requests: list[Request] = []


def wait_for_release(request: Request) -> Response:
    waiting_requests.append(request)
    released.wait(20)
    return PlainTextResponse("released")


async def read_all(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def refuse(_: Request) -> Response:
    return PlainTextResponse("no key", 401)


async def large(_: Request) -> Response:
    return PlainTextResponse("x" * 16 * 1024 * 1024)


ROUTES = [
    Route("/", lambda _: PlainTextResponse("ok")),
    Route("/wait", wait_for_release),
    Route("/body", read_all, methods=["POST"]),
    Route("/refused", refuse, methods=["POST"]),
    Route("/large", large),
]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(server, "TICKS_PER_SWEEP", 1)
    released.clear()
    waiting_requests.clear()
    with (
        bind_socket("127.0.0.1", 0) as listener,
        serve_in_background(
            Starlette(routes=ROUTES), listener, name="test", max_connections=MAXIMUM
        ),
    ):
        yield listener.getsockname()[1]
        released.set()


def limit_to(monkeypatch: pytest.MonkeyPatch, phase: Phase, seconds: float) -> None:
    monkeypatch.setitem(connections.SECONDS, phase, seconds)


@contextlib.contextmanager
def opened(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)))
            found[-1].sendall(sent)
        yield found


def is_closed(connection: socket.socket) -> bool:
    """Read to the end; a connection that is dropped may be reset."""
    try:
        while connection.recv(1 << 20):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


HALF_OPEN = {
    "nothing": b"",
    "a part of a head": b"GET / HTTP/1.1\r\nHost:",
    "a refused request without its body": (
        b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    ),
    "a whole request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", HALF_OPEN.values(), ids=HALF_OPEN.keys())
def test_connections_without_a_request_give_way_to_clients(port: int, sent: bytes) -> None:
    with capture_logs() as logged, opened(port, 5 * MAXIMUM, sent):
        for _ in range(5):
            assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"
        if sent != HALF_OPEN["a whole request"]:  # idle connections are closed without a word
            wait_until(lambda: bool(logged))
    lines = [line for line in logged if line["event"] == "http_server.connections_closed"]
    assert len(lines) <= 1
    for line in lines:
        assert (line["log_level"], line["server"], line["maximum"]) == ("warning", "test", MAXIMUM)


def test_where_every_connection_is_served_a_further_one_is_refused(port: int) -> None:
    with opened(port, MAXIMUM, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n") as busy:
        wait_until(lambda: len(waiting_requests) == MAXIMUM)
        with opened(port, 1) as (further,):
            assert further.recv(1000).startswith(b"HTTP/1.1 503 ")
        released.set()
        for connection in busy:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"


@pytest.mark.parametrize(
    ("phase", "sent"),
    [
        (Phase.HEAD, b""),
        (Phase.HEAD, b"GET / HTTP/1.1\r\nHo"),
        (Phase.HEAD, b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"),  # the second one is cut off
        (Phase.BODY, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"),
        (Phase.BODY, HALF_OPEN["a refused request without its body"]),
    ],
)
def test_who_sends_too_slowly_is_cut_off(
    port: int, phase: Phase, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_to(monkeypatch, phase, 0.2)
    with opened(port, 1, sent) as (slow,):
        assert is_closed(slow)


def test_a_trickle_of_bytes_does_not_win_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_to(monkeypatch, Phase.HEAD, 0.3)
    with opened(port, 1, b"GET / HTTP/1.1\r\nX: ") as (slow,):
        slow.settimeout(0.05)
        with pytest.raises(ConnectionError):  # noqa: PT012 (one of many writes fails)
            for _ in range(400):
                slow.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not slow.recv(1):
                        raise ConnectionResetError


def test_who_does_not_read_the_response_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_to(monkeypatch, Phase.UNREAD, 0.2)
    large_request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    with capture_logs() as logged, opened(port, 1, large_request) as (slow,):
        wait_until(lambda: any(line.get("too_slow") for line in logged))
        assert is_closed(slow)


def test_a_slow_application_and_idle_connections_are_given_their_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for phase in connections.SECONDS:
        limit_to(monkeypatch, phase, 0.1)
    with opened(port, 1, HALF_OPEN["a whole request"]) as (idle,):
        with opened(port, 1, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n") as (waiting,):
            threading.Event().wait(0.5)
            released.set()
            assert waiting.recv(1000).startswith(b"HTTP/1.1 200 ")
        idle.sendall(HALF_OPEN["a whole request"])
        idle.settimeout(5)
        read = b""
        while read.count(b"HTTP/1.1 200 ") < 2:
            read += idle.recv(1000)
