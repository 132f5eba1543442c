"""Ask the console for its pages, without a server or a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any

import httpx

from worker.admin import Admin
from worker.config import load_settings
from worker.console.access import Access
from worker.console.app import ConsoleApp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.store.database import Database

VIEWER_KEY = "the-key-of-a-viewer"
OPERATOR_KEY = "the-key-of-an-operator"
KEYS = {"vera": {"key": VIEWER_KEY}, "otto": {"key": OPERATOR_KEY, "role": "operator"}}
JSON_KEYS = json.dumps(KEYS)
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}  # as a browser sends from a page of the console


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
    **given: Any,
) -> Iterator[httpx.Client]:
    """A client of a console; settings are named without the prefix `console_`."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = load_settings(
        database_url=url, **{f"console_{name}": value for name, value in given.items()}
    )
    with Admin(url) as admin:
        app = ConsoleApp(admin, settings, Access.from_settings(settings)).create()
        transport = AppTransport(app, address)
        with httpx.Client(transport=transport, base_url=base_url) as client:
            yield client


def sign_in(client: httpx.Client, key: str, **form: str) -> httpx.Response:
    """Send the form with this key, as a browser would."""
    return client.post("/sign-in", data={"key": key, **form}, headers=SAME_ORIGIN)


def words(html: str) -> str:
    """The text of a page, as somebody reads it."""
    without_tags = re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", html))
    return " ".join(unescape(without_tags).split())
