"""What the gateway does not serve is handed on where that is set, and never with another's key."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.gateways import KEY, client, gateway_over
from tests.support.servers import free_port
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS_KEY = "the-workers-own-key"


@contextmanager
def upstream(path: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A judge API that tells what it was asked; its URL, and all of that."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            asked.append(
                {
                    "method": self.command,
                    "path": self.path,
                    "headers": {name.lower(): value for name, value in self.headers.items()},
                    "body": self.rfile.read(length),
                }
            )
            body = b'{"score": 1}'
            self.send_response(307 if "redirect" in self.path else 201)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "https://elsewhere.test/")
            self.send_header("Set-Cookie", "session=of-this-caller")
            self.send_header("Set-Cookie", "second=1")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 (the base's names)

        def log_message(self, *_: object) -> None:
            """Not of interest."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{path}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def passing(sqlite_url: str, api_url: str, **settings: Any) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALWORKER_API_URL", api_url)
        patch.setenv("EVALWORKER_API_KEY", WORKERS_KEY)
        with gateway_over(Database(sqlite_url), **settings) as url:
            yield url


def test_by_default_nothing_is_handed_on(sqlite_url: str) -> None:
    with upstream() as (api_url, asked), passing(sqlite_url, api_url) as url:
        for key in (KEY, "upstream-key", None):
            with client(url, key) as caller:
                assert caller.get("/v1/judges/").status_code == 404
                assert caller.post("/v1/judges/j/execute/", json={}).status_code == 404
    assert asked == []


def test_a_request_is_handed_on_as_it_came_and_with_its_own_key_alone(sqlite_url: str) -> None:
    with (
        upstream("/base") as (api_url, asked),
        passing(sqlite_url, api_url, pass_through=True) as url,
        client(url, "a-key-of-the-callers") as caller,
        client(url, None) as nobody,
    ):
        answer = caller.post(
            "/v1/judges/a%2Fb/execute/?x=1&y=%20",
            json={"request": "q"},
            headers={"X-Own": "kept", "Connection": "keep-alive, X-Hop", "X-Hop": "1"},
        )
        nobody.get("/v1/judges/")
        nobody.delete("/v1/judges/j/")
    assert (answer.status_code, answer.json()) == (201, {"score": 1})
    assert answer.headers.get_list("set-cookie") == ["session=of-this-caller", "second=1"]
    first, second, third = asked
    assert (first["method"], first["path"]) == ("POST", "/base/v1/judges/a%2Fb/execute/?x=1&y=%20")
    assert json.loads(first["body"]) == {"request": "q"}
    assert first["headers"]["authorization"] == "Api-Key a-key-of-the-callers"
    assert first["headers"]["x-own"] == "kept"
    assert first["headers"]["host"] == api_url.split("/")[2]
    assert "x-hop" not in first["headers"]
    # Nothing of one caller's is told of another: no key, no cookie, and never the worker's.
    assert "authorization" not in second["headers"]
    assert "cookie" not in second["headers"]
    assert (second["body"], "transfer-encoding" in second["headers"]) == (b"", False)
    assert third["method"] == "DELETE"
    assert WORKERS_KEY not in str(asked)


def test_a_key_of_the_gateways_goes_nowhere(sqlite_url: str) -> None:
    with (
        upstream() as (api_url, asked),
        passing(sqlite_url, api_url, pass_through=True) as url,
        client(url) as caller,
    ):
        answer = caller.post("/v1/judges/j/execute/", json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert caller.get("/v1/judges/batch-executions/").status_code == 200
    assert asked == []


def test_only_the_apis_own_paths_are_handed_on_and_no_redirect_is_followed(
    sqlite_url: str,
) -> None:
    with (
        upstream() as (api_url, asked),
        passing(sqlite_url, api_url, pass_through=True) as url,
        client(url, "k") as caller,
    ):
        assert caller.get("/admin/").status_code == 404
        assert asked == []
        answer = caller.get("/v1/redirect/")
        assert (answer.status_code, answer.headers["location"]) == (307, "https://elsewhere.test/")
        assert len(asked) == 1


def test_an_upstream_that_is_away_is_a_bad_gateway(sqlite_url: str) -> None:
    api_url = f"http://127.0.0.1:{free_port()}"
    with (
        passing(sqlite_url, api_url, pass_through=True, max_body_bytes=2000) as url,
        client(url, "k") as caller,
    ):
        answer = caller.get("/v1/judges/")
        assert (answer.status_code, answer.json()["code"]) == (502, "bad_gateway")


def test_a_body_that_is_too_large_is_not_handed_on(sqlite_url: str) -> None:
    with (
        upstream() as (api_url, asked),
        passing(sqlite_url, api_url, pass_through=True, max_body_bytes=2000) as url,
        client(url, "k") as caller,
        suppress(httpx.WriteError),
    ):  # the connection may be closed under it
        assert caller.post("/v1/files/", content=b" " * 200_000).status_code == 413
    assert asked == []
