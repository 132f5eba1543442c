"""The client over real sockets, and with every response that a generator produces."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import httpcore
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.raw_server import HEAD, client, serving, without_proxies
from worker.domain.outcomes import (
    Accepted,
    Found,
    ListOutcome,
    StatusOutcome,
    SubmitOutcome,
    Unavailable,
)
from worker.remote.transport import HTTPX_ERRORS, IDLE_SECONDS, PoolTransport

ID = "0190c7a2-0000-7000-8000-000000000001"


def _request(connection: socket.socket) -> None:
    connection.settimeout(5)
    connection.recv(65536)


def unavailable(outcome: object, *, sent: bool) -> str:
    assert isinstance(outcome, Unavailable), outcome
    assert outcome.sent is sent
    return outcome.reason


def test_a_refused_connection_is_known_not_to_have_sent_anything() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with client(f"http://127.0.0.1:{unused.getsockname()[1]}") as api:
            unavailable(api.submit("j", [{}]), sent=False)


def test_a_failed_tls_handshake_is_known_not_to_have_sent_anything() -> None:
    def talk(connection: socket.socket, _: threading.Event) -> None:
        _request(connection)
        connection.sendall(b"this is no TLS\r\n")

    with serving(talk) as url, client(url.replace("http:", "https:")) as api:
        unavailable(api.submit("j", [{}]), sent=False)


def test_a_connection_dropped_after_the_request_may_have_sent_it() -> None:
    with serving(lambda connection, _: _request(connection)) as url, client(url) as api:
        unavailable(api.submit("j", [{}]), sent=True)


def test_a_response_that_breaks_off_may_have_started_a_batch() -> None:
    def talk(connection: socket.socket, _: threading.Event) -> None:
        _request(connection)
        connection.sendall(HEAD + b"Content-Length: 500\r\n\r\n" + b'{"batch_execution_id": "01')

    with serving(talk) as url, client(url) as api:
        unavailable(api.submit("j", [{}]), sent=True)


def _drip(connection: socket.socket, over: threading.Event, what: bytes) -> None:
    while not over.is_set():
        connection.sendall(what)
        time.sleep(0.02)


def _drips_its_body(connection: socket.socket, over: threading.Event) -> None:
    _request(connection)
    connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    _drip(connection, over, b" ")


def _drips_its_headers(connection: socket.socket, over: threading.Event) -> None:
    _request(connection)
    connection.sendall(HEAD + b"X-Slow: ")
    _drip(connection, over, b"x")


def _says_nothing(connection: socket.socket, over: threading.Event) -> None:
    _request(connection)
    over.wait(5)


@pytest.mark.parametrize("talk", [_drips_its_body, _drips_its_headers, _says_nothing])
def test_no_response_lasts_longer_than_the_deadline(
    talk: Callable[[socket.socket, threading.Event], None],
) -> None:
    with serving(talk) as url, client(url, deadline=0.3) as api:
        started_at = time.monotonic()
        unavailable(api.submit("j", [{}]), sent=True)
        assert time.monotonic() - started_at < 2


def test_a_server_that_reads_the_request_too_slowly_meets_the_deadline() -> None:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        while not over.is_set():
            connection.recv(1024)
            time.sleep(0.02)

    with serving(talk) as url, client(url, deadline=0.3) as api:
        started_at = time.monotonic()
        unavailable(api.submit("j", [{"request": "x" * 20_000_000}]), sent=True)
        assert time.monotonic() - started_at < 2


def test_an_endless_response_is_cut_off() -> None:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        _request(connection)
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        while not over.is_set():
            connection.sendall(b" " * 65536)

    with serving(talk) as url, client(url, max_response_bytes=1_000_000) as api:
        reason = unavailable(api.status(ID), sent=True)
    assert reason == "the response is longer than 1,000,000 bytes"


def test_one_client_serves_many_threads_each_with_its_own_response() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        judge = request.url.path.split("/")[3]
        return httpx.Response(202, json={"batch_execution_id": f"batch-{judge}"})

    outcomes: dict[int, SubmitOutcome] = {}
    with client("https://api.example.com", transport=httpx.MockTransport(handle)) as api:
        threads = [
            threading.Thread(target=lambda n=n: outcomes.update({n: api.submit(str(n), [{}])}))
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == {n: Accepted(f"batch-{n}") for n in range(16)}


def test_a_connection_is_kept_and_serves_requests_after_a_deadline_has_passed() -> None:
    connections = []

    def whole_request(connection: socket.socket) -> bytes:
        """Read head and body, because a response to the head alone would be followed by another."""
        request = b""
        while not request.endswith(b"]}"):
            part = connection.recv(65536)
            if not part:
                return b""
            request += part
        return request

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connections.append(connection)
        connection.settimeout(30)
        body = b'{"batch_execution_id": "b"}'
        while not over.is_set() and whole_request(connection):
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with serving(talk) as url, client(url, deadline=0.2) as api:
        assert api.submit("j", [{}]) == Accepted("b")
        time.sleep(0.25)
        assert api.submit("j", [{}]) == Accepted("b")
    assert len(connections) == 1


def test_each_error_of_httpcore_becomes_the_error_of_httpx() -> None:
    exported = [getattr(httpcore, name) for name in httpcore.__all__]
    errors = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Exception)}
    assert set(HTTPX_ERRORS) == errors - {httpcore.ConnectionNotAvailable}  # raised inside only


@contextmanager
def accepting(requests: list[bytes]) -> Iterator[str]:
    """Serve a judge API that accepts any batch, and collect its requests."""

    def talk(connection: socket.socket, _: threading.Event) -> None:
        connection.settimeout(5)
        requests.append(connection.recv(65536))
        body = b'{"batch_execution_id": "b"}'
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with serving(talk) as url:
        yield url


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_the_proxy_of_the_environment_is_used(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_proxies(monkeypatch)
    requests: list[bytes] = []
    with accepting(requests) as url:
        monkeypatch.setenv(variable, url.replace("//", "//user:pass@"))
        with client("http://judge.invalid") as api:
            assert api.submit("j", [{}]) == Accepted("b")
    (request,) = requests
    assert request.startswith(b"POST http://judge.invalid/v1/judges/j/batch-execute/ HTTP/1.1")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz" in request


def test_a_proxy_that_drips_meets_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    without_proxies(monkeypatch)
    with serving(_drips_its_headers) as url:
        monkeypatch.setenv("https_proxy", url)
        with client("https://judge.invalid", deadline=0.3) as api:
            started_at = time.monotonic()
            unavailable(api.submit("j", [{}]), sent=True)
            assert time.monotonic() - started_at < 2


def test_a_host_can_be_excepted_from_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    without_proxies(monkeypatch)
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with accepting([]) as url, client(url) as api:
        assert api.submit("j", [{}]) == Accepted("b")


# --- any response ----------------------------------------------------------------------

texts = st.text(max_size=8) | st.sampled_from(["\x00", "\ud800", ID, "completed", "?cursor=c"])
ids = st.sampled_from(["batch_execution_id", "status_url", "status", "judge", "version_id", "tags"])
containers = st.sampled_from(["items", "index", "results", "next", "evaluator_results", "input"])
verdicts = st.sampled_from(["evaluator_name", "score", "justification", "confidence"])
errors = st.sampled_from(["detail", "title", "error", "message", "code", "error_message"])
names = texts | ids | containers | verdicts | errors
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)
batches = st.fixed_dictionaries(
    {"batch_execution_id": st.just(ID), "status": texts},
    optional={
        "items": anything
        | st.lists(
            st.fixed_dictionaries(
                {"index": leaves | st.integers(0, 3), "status": texts},
                optional={"evaluator_results": anything | st.lists(anything), "input": anything},
            )
        ),
        "judge": anything,
        "tags": anything,
        "total_count": anything,
        "created_at": anything,
    },
)
lists = st.fixed_dictionaries(
    {"results": st.lists(batches | anything, max_size=3), "next": anything}
)
bodies = st.binary(max_size=200) | (anything | batches | lists).map(
    lambda body: json.dumps(body).encode()
)
statuses = st.sampled_from([200, 202]) | st.integers(200, 599)
header_texts = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
header_sets = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "Location", "Set-Cookie", "Content-Encoding"]),
    header_texts | st.sampled_from(["gzip", "5", "Sun, 01 Nov 2026 12:00:00 GMT"]),
    max_size=3,
)


@settings(max_examples=200)
@given(status=statuses, body=bodies, headers=header_sets)
def test_any_response_becomes_an_outcome(status: int, body: bytes, headers: dict[str, str]) -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        response = httpx.Response(status, headers=raw)
        response.stream = httpx.ByteStream(body)
        return response

    with client("https://api.example.com", transport=httpx.MockTransport(handle)) as api:
        submitted, polled, listed = api.submit("j", [{}]), api.status(ID), api.list_executions()
    assert isinstance(submitted, get_args(SubmitOutcome))
    assert isinstance(polled, get_args(StatusOutcome))
    assert isinstance(listed, get_args(ListOutcome))
    for outcome in (submitted, polled, listed):
        json.dumps(repr(outcome), allow_nan=False)
        reason = getattr(outcome, "reason", "-")
        assert 0 < len(reason) <= 500
        assert reason.isprintable()
    if isinstance(polled, Found):
        for item in polled.execution.items:
            extras = [result.extra for result in item.evaluator_results]
            written = json.dumps([item.input, extras], ensure_ascii=False, allow_nan=False)
            assert "\\u0000" not in written.replace("\\\\u0000", "")
            written.encode()  # no half of a surrogate pair is left


class OpenedPools:
    """Opens pools whose server answers each request, and knows which of them are closed."""

    def __init__(self) -> None:
        self.opened: list[httpcore.ConnectionPool] = []
        self.closed: list[httpcore.ConnectionPool] = []

    def __call__(self) -> httpcore.ConnectionPool:
        answer = HEAD + b"Content-Length: 2\r\n\r\n{}"
        pool = httpcore.ConnectionPool(network_backend=httpcore.MockBackend([answer] * 9))
        close = pool.close

        def note_closed() -> None:
            self.closed.append(pool)
            close()

        pool.close = note_closed  # type: ignore[method-assign]
        self.opened.append(pool)
        return pool


def test_requests_one_after_the_other_share_a_connection() -> None:
    pools = OpenedPools()
    transport = PoolTransport(pools)
    for _ in range(3):
        transport.handle_request(httpx.Request("GET", "http://judge.test/")).close()
    assert len(pools.opened) == 1
    transport.close()
    assert pools.closed == pools.opened


def test_no_exchange_touches_the_connection_of_another_one() -> None:
    pools = OpenedPools()
    transport = PoolTransport(pools)
    one, two = (transport.handle_request(httpx.Request("GET", "http://judge.test/")) for _ in "ab")
    assert len(pools.opened) == 2
    transport.close()
    assert not pools.closed
    for response in (one, two, two):
        response.close()
    assert sorted(map(id, pools.closed)) == sorted(map(id, pools.opened))


def test_a_connection_is_closed_when_it_was_idle_for_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("worker.remote.transport.clock", lambda: now)
    pools = OpenedPools()
    transport = PoolTransport(pools)
    one, two = (transport.handle_request(httpx.Request("GET", "http://judge.test/")) for _ in "ab")
    one.close()
    two.close()
    now = IDLE_SECONDS
    transport.handle_request(httpx.Request("GET", "http://judge.test/")).close()
    assert pools.closed == [pools.opened[0]]
    transport.close()
