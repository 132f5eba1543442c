"""Hold what a page needs to know about one request, and make its response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from starlette.responses import HTMLResponse, RedirectResponse, Response

from worker.admin import Admin
from worker.config import Settings
from worker.console.access import Visitor
from worker.console.action_message import COOKIE, COOKIE_SECONDS, action_message
from worker.console.links import Links
from worker.console.parameters import MAX_INTEGER, Parameters
from worker.console.problems import not_found
from worker.console.reader import MAX_SECONDS, Reader
from worker.console.renderer import template_environment

REFRESH_SECONDS = ("off", "5", "10", "30")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of one person.

    `admin` acts in this person's name; `form` is empty unless the request is a POST; `is_refresh`:
    an open page asks by itself; `is_https`: the browser speaks TLS; `outcome`: what the action that
    led to this page did, or nothing.
    """

    visitor: Visitor
    admin: Admin
    reader: Reader
    settings: Settings
    links: Links
    path: Mapping[str, str]
    is_refresh: bool
    is_https: bool
    outcome: str
    query: Parameters
    form: Parameters

    def read(self, seconds: float = MAX_SECONDS) -> AbstractContextManager[sa.Connection]:
        """Open a connection whose statements are stopped after so many seconds (`TooSlow`)."""
        return self.reader.read(seconds)

    def path_id(self, name: str, what: str) -> UUID:
        """Return an id of the path; raises `PageProblem`, 404, as no such row can exist."""
        try:
            return UUID(self.path[name])
        except ValueError:
            raise not_found(f"such {what}") from None

    def job_id(self) -> UUID:
        return self.path_id("job_id", "job")

    def item_index(self) -> int:
        text = self.path["item_index"]
        if not re.fullmatch("[0-9]{1,10}", text) or int(text) > MAX_INTEGER:
            raise not_found("such input in this job")
        return int(text)

    def action_message(self) -> str | None:
        """Say what the action did that led to this page; None if none did."""
        return action_message(self.outcome)

    def refresh_seconds(self) -> int | None:
        """Return how often the page refreshes itself, as its address says; None: never."""
        chosen = self.query.choice("refresh", REFRESH_SECONDS, "10")
        return None if chosen in (None, "off") else int(chosen)

    def page(
        self,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **view: Any,
    ) -> Response:
        """Render a template with these values."""
        html = (
            template_environment()
            .get_template(template)
            .render(visit=self, links=self.links, visitor=self.visitor, **view)
        )
        response = HTMLResponse(html, status, headers)
        if self.outcome:
            response.delete_cookie(COOKIE, path=self.cookie_path)
        return response

    def redirect(self, target: str, **outcome: object) -> Response:
        """Answer a POST with the page to look at next, which says what was done."""
        response = RedirectResponse(target, 303)
        if outcome:
            response.set_cookie(
                COOKIE,
                urlencode(outcome),
                max_age=COOKIE_SECONDS,
                path=self.cookie_path,
                secure=self.is_https,
                httponly=True,
                samesite="strict",
            )
        return response

    @property
    def cookie_path(self) -> str:
        return self.links.prefix or "/"
