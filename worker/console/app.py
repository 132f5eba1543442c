"""Serve the console as an ASGI application: its routes, and the pages about errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from worker.admin import Admin
from worker.config import Settings
from worker.console.access import Access, Visitor
from worker.console.action_message import COOKIE as OUTCOME_COOKIE
from worker.console.forms import read_form
from worker.console.links import Links
from worker.console.pages import (
    actions,
    batches,
    compare,
    events,
    failures,
    health,
    inputs,
    job,
    jobs,
    overview,
    session,
)
from worker.console.pages import input as one_input
from worker.console.parameters import Parameters
from worker.console.problems import PageProblem, not_allowed, not_found
from worker.console.reader import Reader
from worker.console.renderer import STATIC
from worker.console.request_guard import RequestGuard
from worker.console.visit import Visit
from worker.errors import NotPossible, TooSlow, UnknownJob
from worker.store.outage import RIGHTS_REMEDY, Outages, first_line, lacks_rights

Page = Callable[[Visit], Response]

log = structlog.get_logger("evalworker")

NOBODY = Visitor("", may_act=False, signed_in=False)
STATIC_SECONDS = 365 * 86400  # their addresses change with their content


class ConsoleApp:
    """The pages over one database."""

    def __init__(
        self,
        admin: Admin,
        settings: Settings,
        access: Access,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin = admin
        self._settings = settings
        self._access = access
        self._reader = Reader(admin.database, clock=clock)

    def create(self) -> ASGIApp:
        routes: list[Route | Mount] = [
            self._page_route("/", overview.show),
            self._page_route("/jobs", jobs.show),
            self._page_route("/jobs/{job_id}", job.show),
            self._page_route("/jobs/{job_id}/report.html", job.report),
            self._page_route("/jobs/{job_id}/inputs", inputs.show),
            self._page_route("/jobs/{job_id}/inputs.{form}", inputs.export),
            self._page_route("/jobs/{job_id}/inputs/{item_index}", one_input.show),
            self._page_route("/jobs/{job_id}/inputs/{item_index}/{text}.txt", one_input.raw),
            self._page_route("/compare", compare.show),
            self._page_route("/compare.json", compare.export),
            self._page_route("/failures", failures.show),
            self._page_route("/batches", batches.show),
            self._page_route("/batches/{batch_id}", batches.show_one),
            self._page_route("/events", events.show),
            self._page_route("/health", health.show),
            *self._action_routes("/retry", actions.preview_retry, actions.retry),
            *self._action_routes("/cancel", actions.preview_cancel, actions.cancel),
            *self._action_routes("/pause", actions.ask_pause, actions.pause),
            *self._action_routes("/resume", actions.ask_resume, actions.resume),
            *self._action_routes("/batches/{batch_id}/resolve", batches.show_one, batches.resolve),
            Route("/sign-in", self._sign_in, methods=["POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Mount("/static", _StaticFiles(directory=STATIC)),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: self._http_error, Exception: self._failure}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False  # to a path without the prefix, by a Host of any kind
        # Around the whole of it: Starlette's own middleware would not see the page about a failure.
        prefix = self._settings.console_prefix
        return RequestGuard(app, prefix=prefix, local_only=self._access.is_local)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self._reader.close()

    def _page_route(self, path: str, page: Page) -> Route:
        """Route a page that changes nothing."""
        return Route(path, partial(self._respond, page), methods=["GET"])

    def _action_routes(self, path: str, ask: Page, act: Page) -> list[Route]:
        """Route a page that asks, by GET, and what changes something, by POST: not for viewers."""
        return [
            Route(path, partial(self._respond, ask, acts=True), methods=["GET"]),
            Route(path, partial(self._respond, act, acts=True), methods=["POST"]),
        ]

    async def _respond(self, page: Page, request: Request, *, acts: bool = False) -> Response:
        visitor = self._access.visitor(request)
        if visitor is None:
            return await self._ask_to_sign_in(request)
        try:
            if acts and not visitor.may_act:
                raise not_allowed(_refusal(self._settings))
            visit = await self._visit(request, visitor)
            return await self._reader.run(partial(page, visit))
        except ClientDisconnect:  # nobody receives this response
            return Response(status_code=400)
        except (PageProblem, UnknownJob, NotPossible, TooSlow, SQLAlchemyError) as error:
            problem = _problem_of(error, self._admin.database.outages)
            return self._problem_page(request, visitor, problem)
        finally:
            if request.method == "POST":  # the next page has to show what it did
                self._reader.forget()

    async def _visit(self, request: Request, visitor: Visitor) -> Visit:
        form = await read_form(request) if request.method == "POST" else []
        query = Parameters(request.query_params.multi_items())
        return self._bare_visit(request, visitor, query, Parameters(form))

    def _bare_visit(
        self, request: Request, visitor: Visitor, query: Parameters, form: Parameters
    ) -> Visit:
        path = request.scope["path"]
        is_refresh = request.headers.get("hx-request") == "true"
        return Visit(
            visitor=visitor,
            admin=self._admin.acting_as(f"console:{visitor.name}"),
            reader=self._reader,
            settings=self._settings,
            links=Links(self._settings.console_prefix, path, query.as_dict()),
            path=request.path_params,
            is_refresh=is_refresh,
            is_https=self._is_https(request),
            # Refreshes of other pages leave it to the page that follows the action.
            outcome="" if is_refresh else request.cookies.get(OUTCOME_COOKIE, ""),
            query=query,
            form=form,
        )

    def _problem_page(self, request: Request, visitor: Visitor, problem: PageProblem) -> Response:
        visit = self._bare_visit(request, visitor, Parameters([]), Parameters([]))
        return visit.page("problem.html", status=problem.status, problem=problem)

    async def _sign_in(self, request: Request) -> Response:
        try:
            visit = await self._visit(request, NOBODY)
        except PageProblem as problem:
            return self._problem_page(request, NOBODY, problem)
        return session.sign_in(visit, self._access)

    async def _sign_out(self, request: Request) -> Response:
        visit = self._bare_visit(request, NOBODY, Parameters([]), Parameters([]))
        return session.sign_out(visit)

    async def _ask_to_sign_in(self, request: Request) -> Response:
        visit = self._bare_visit(request, NOBODY, Parameters([]), Parameters([]))
        query = f"?{request.url.query}" if request.url.query else ""
        target = f"{quote(request.scope['path'])}{query}" if request.method == "GET" else "/"
        return session.ask(visit, self._access, target=target, status=401)

    def _is_https(self, request: Request) -> bool:
        """Return whether the browser speaks TLS, to us or to the trusted proxy before us."""
        if request.url.scheme == "https":
            return True
        forwarded = request.headers.get("x-forwarded-proto", "")
        return self._access.is_proxy(request) and forwarded == "https"

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        visitor = self._access.visitor(request) or NOBODY
        if status == 404:
            return self._problem_page(request, visitor, not_found("such page"))
        problem = PageProblem(status, "This address does not support that method.")
        return self._problem_page(request, visitor, problem)

    async def _failure(self, request: Request, error: Exception) -> Response:
        log.error("console.failed", path=request.scope["path"], exc_info=error)
        problem = PageProblem(
            500, "This page could not be made.", "The log of this process says why."
        )
        return self._problem_page(request, NOBODY, problem)


class _StaticFiles(StaticFiles):
    """Static files, which browsers may keep."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = f"public, max-age={STATIC_SECONDS}, immutable"
        return response


def _refusal(settings: Settings) -> str:
    if settings.console_read_only:
        return "This console is read-only."
    return "Viewers cannot make changes."


def _problem_of(error: Exception, outages: Outages) -> PageProblem:
    match error:
        case PageProblem():
            return error
        case UnknownJob():
            return not_found("such job")
        case NotPossible():
            return PageProblem(409, "This is not possible now.", str(error))
        case TooSlow():
            return PageProblem(
                503,
                f"This took more than {error.seconds:g} seconds, so it was stopped.",
                "Narrow it: choose a judge, a status, a shorter time, or a single job.",
            )
        case _ if lacks_rights(error):
            return PageProblem(
                503,
                f"The console may not read this: {first_line(error)}.",
                f"Its login needs more rights; {RIGHTS_REMEDY}.",
            )
        case _:
            outages.report(error, "console")
            return PageProblem(
                503, "The database does not respond.", "Try again in a moment, or see the log."
            )
