"""Ask the console for its pages, without a server or a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from html import unescape
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa

from worker.admin import Admin
from worker.config import load_settings
from worker.console.access import Access
from worker.console.app import ConsoleApp
from worker.outbox import enqueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from worker.store.database import Database

VIEWER_KEY = "the-key-of-a-viewer"
OPERATOR_KEY = "the-key-of-an-operator"
KEYS = {"vera": {"key": VIEWER_KEY}, "otto": {"key": OPERATOR_KEY, "role": "operator"}}
JSON_KEYS = json.dumps(KEYS)
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}  # as a browser sends from a page of the console
HOSTILE = "<script>alert(1)</script>\u202e<img src=x onerror=alert(2)>\x07\"'&{{7*7}}"


class AppTransport(httpx.BaseTransport):
    """Hands the requests of a plain client to an ASGI application, on an event loop of its own."""

    def __init__(self, app: Any, address: str) -> None:
        self._transport = httpx.ASGITransport(
            app, raise_app_exceptions=False, client=(address, 50_000)
        )
        self._loop = asyncio.Runner()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._loop.run(self._send(request))

    async def _send(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        await response.aread()
        return httpx.Response(
            response.status_code, headers=response.headers, content=response.content
        )

    def close(self) -> None:
        self._loop.close()


@contextlib.contextmanager
def open_console(
    database: Database,
    *,
    address: str = "127.0.0.1",
    base_url: str = "http://localhost",
    clock: Callable[[], float] = time.monotonic,
    **given: Any,
) -> Iterator[httpx.Client]:
    """A client of a console; settings are named without the prefix `console_`."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = load_settings(
        database_url=url, **{f"console_{name}": value for name, value in given.items()}
    )
    with Admin(url) as admin:
        access = Access.from_settings(settings)
        app = ConsoleApp(admin, settings, access, clock=clock).create()
        transport = AppTransport(app, address)
        with httpx.Client(transport=transport, base_url=base_url) as client:
            yield client


class OpenOverviews:
    """Overviews that people have open for a while, on a clock of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = 0.0
        self.statements = 0
        self.seconds = 0.0  # that the database took

    def refresh(self, people: int, *, minutes: int = 1, every: int = 10) -> None:
        """Refresh the page of each of these people, in turn, as an open page does."""
        with (
            open_console(self._database, clock=lambda: self._now) as client,
            self._statements_counted(),
        ):
            for number in range(people * minutes * 60 // every):
                self._now = number * every / people
                path, headers = f"/?refresh={every}", {"HX-Request": "true"}
                client.get(path, headers=headers).raise_for_status()

    @contextlib.contextmanager
    def _statements_counted(self) -> Iterator[None]:
        def begin(*_: Any) -> None:
            self.statements += 1
            self.seconds -= time.perf_counter()

        def end(*_: Any) -> None:
            self.seconds += time.perf_counter()

        hooks = {"before_cursor_execute": begin, "after_cursor_execute": end}
        for name, hook in hooks.items():
            sa.event.listen(sa.Engine, name, hook)
        try:
            yield
        finally:
            for name, hook in hooks.items():
                sa.event.remove(sa.Engine, name, hook)


def sign_in(client: httpx.Client, key: str, **form: str) -> httpx.Response:
    """Send the form with this key, as a browser would."""
    return client.post("/sign-in", data={"key": key, **form}, headers=SAME_ORIGIN)


def words(html: str) -> str:
    """The text of a page, as somebody reads it."""
    without_tags = re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", html))
    return " ".join(unescape(without_tags).split())


def page(client: httpx.Client, path: str, **query: Any) -> str:
    response = client.get(path, params=query or None)
    assert response.status_code == 200, words(response.text)
    return response.text


def indexes(text: str) -> list[int]:
    """The inputs of a table, in order."""
    return [int(found) for found in re.findall(r'inputs/(\d+)[^"]*">\1</a></th>', text)]


def link(text: str, name: str) -> str:
    found = re.search(rf'href="([^"]*)"[^>]*>(?:<bdi>)?[^<]*{re.escape(name)}', text)
    assert found is not None, name
    return unescape(found[1])


def enqueue_whole(database: Database, inputs: list[dict[str, Any]], **job: Any) -> UUID:
    with database.engine.begin() as connection:
        return enqueue(connection, judge_id="judge", inputs=inputs, **job)
