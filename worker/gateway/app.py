"""The paths of the gateway, and who may use them, as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.gateway.auth import Key, Keys
from worker.gateway.group_commit import Writing
from worker.gateway.openapi import document
from worker.gateway.pagination import cut, wanted
from worker.gateway.reader import Reading
from worker.gateway.responses import execution, head
from worker.gateway.submit import Taking, idempotency_key_in, take
from worker.store import gateway_queries
from worker.tracing.context import callers_span
from worker.validation import judge_offences
from worker.wire.asgi import no_such_path, problem_answer, read_json
from worker.wire.list_query import read_query
from worker.wire.paths import EXECUTE_PATH, EXECUTIONS, LIST_PATH, STATUS_PATH, path
from worker.wire.problems import Problem, field_problem, no_such_execution
from worker.wire.schemas import Accepted, Page
from worker.wire.submission import Submission, read_submission

Observer = Callable[[str, int, float], None]

log = structlog.get_logger("evalworker")

DOCUMENT_PATH = "/openapi.json"
RETRY_SECONDS = 5  # told to who asks while the database is away
SHOWN_AT_ONCE = 250  # items, in some milliseconds; more in a thread, while others are answered


class Gateway:
    """The judge API over the outbox."""

    def __init__(
        self,
        reading: Reading,
        writing: Writing,
        keys: Keys,
        *,
        max_inputs: int,
        max_body_bytes: int,
        observe: Observer = lambda _endpoint, _status, _seconds: None,
    ) -> None:
        self.reading = reading
        self.writing = writing
        self.keys = keys
        self.max_inputs = max_inputs
        self.max_body_bytes = max_body_bytes
        self.observe = observe
        self.document = document(max_inputs=max_inputs)

    def create_app(self) -> Starlette:
        """The routes; a POST without the final slash finds nothing, as it must not be relied on."""
        routes = [
            self._route("submit", EXECUTE_PATH, self.submit, "POST"),
            self._route("list", LIST_PATH, self.list, "GET"),
            self._route("status", STATUS_PATH, self.status, "GET"),
            Route(DOCUMENT_PATH, self.show_document, methods=["GET"]),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: no_such_path, Exception: _surprised}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._closing)
        app.router.redirect_slashes = False
        return app

    @contextlib.asynccontextmanager
    async def _closing(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.writing.close()
        self.reading.close()

    def _route(
        self,
        name: str,
        path: str,
        handle: Callable[[Request, Key], Awaitable[Response]],
        method: str,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            return await handle(request, self.keys.admit(request.headers.get("authorization")))

        return Route(path, self._answering(name, endpoint), methods=[method])

    def _answering(
        self, name: str, handle: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Who watches hears of every answer, also of the one to what nobody expected."""
        answering = _answering(handle)

        async def endpoint(request: Request) -> Response:
            began, status = time.monotonic(), 500
            try:
                response = await answering(request)
                status = response.status_code
                return response
            finally:
                self.observe(name, status, time.monotonic() - began)

        return endpoint

    # --- the endpoints ---------------------------------------------------------------------------

    async def submit(self, request: Request, key: Key) -> Response:
        """Answered when the job is committed."""
        judge_id = request.path_params["judge_id"]
        key.check_judge(judge_id)
        if offences := judge_offences(judge_id):
            raise field_problem({"judge_id": offences})
        body = await read_json(request, max_bytes=self.max_body_bytes)
        given = read_submission(body, Submission, most_inputs=self.max_inputs)
        own_key = idempotency_key_in(request.headers.get("idempotency-key"))
        span = callers_span(request.headers.get("traceparent"))
        taking = Taking(key.name, judge_id, given, own_key, span)
        job_id = str(await take(taking, self.writing, self.reading))
        answer = Accepted(batch_execution_id=job_id, status_url=path(*EXECUTIONS, job_id))
        return JSONResponse(answer, 202)

    async def status(self, request: Request, key: Key) -> Response:
        try:
            job_id = UUID(request.path_params["id"])
        except ValueError:
            raise no_such_execution() from None
        ask = self.reading.ask
        rows = await gateway_queries.rows_of(ask, job_id, key.name)
        if not rows:
            raise no_such_execution()
        ended = any(row.item_finished_at is not None for row in rows)
        # Read after the rows, so that whatever ended has its results among them; unless all of it
        # was deleted meanwhile.
        results = await gateway_queries.results_of(ask, job_id) if ended else ()
        if ended and not await gateway_queries.is_there(ask, job_id):
            raise no_such_execution()
        if len(rows) <= SHOWN_AT_ONCE:
            return JSONResponse(execution(rows, results))
        return await asyncio.to_thread(lambda: JSONResponse(execution(rows, results)))

    async def list(self, request: Request, key: Key) -> Response:
        query = read_query(request.query_params)
        return await self.reading.run(partial(self._list, request, wanted(key.name, query)))

    def _list(
        self, request: Request, asked: gateway_queries.Wanted, connection: sa.Connection
    ) -> Response:
        found = cut(gateway_queries.page(connection, asked), asked)

        def link(cursor: str | None) -> str | None:
            if cursor is None:
                return None
            query = urlencode({**request.query_params, "cursor": cursor})
            return str(request.url.replace(query=query))

        rows = [head(row) for row in found.rows]
        return JSONResponse(
            Page(next=link(found.next), previous=link(found.previous), results=rows)
        )

    async def show_document(self, _: Request) -> Response:
        """Anybody may read what is served."""
        return JSONResponse(self.document)


def _answering(
    handle: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handle(request)
        except Problem as problem:
            return problem_answer(problem)
        except ClientDisconnect:  # nobody is there to be answered
            return Response(status_code=400)
        except SQLAlchemyError as error:
            log.warning("gateway.waits", reason=str(error).splitlines()[0])
            words, headers = "Service temporarily unavailable.", {"Retry-After": str(RETRY_SECONDS)}
            return problem_answer(Problem(503, "service_unavailable", words, headers))

    return endpoint


async def _surprised(_request: Request, error: Exception) -> Response:
    log.error("gateway.failed", exc_info=error)
    return problem_answer(Problem(500, "error", "A server error occurred."))
