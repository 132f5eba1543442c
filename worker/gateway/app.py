"""Serve the gateway as an ASGI application: its routes, and the responses to errors."""

from __future__ import annotations

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
from worker.gateway.group_commit import GroupCommit
from worker.gateway.openapi import document
from worker.gateway.pagination import execution_filter, page_of
from worker.gateway.reader import DatabaseReader
from worker.gateway.responses import execution_body, execution_summary
from worker.gateway.submit import PendingSubmission, checked_idempotency_key, submit
from worker.store import gateway_queries
from worker.tracing.context import request_traceparent
from worker.validation import judge_offences
from worker.wire.asgi import http_error_response, problem_response, read_json
from worker.wire.list_query import ListQuery, read_query
from worker.wire.paths import EXECUTE_PATH, EXECUTIONS, LIST_PATH, STATUS_PATH, path
from worker.wire.problems import Problem, execution_not_found, field_problem
from worker.wire.schemas import Accepted, Page
from worker.wire.submission import Submission, read_submission

Endpoint = Callable[[Request], Awaitable[Response]]
Observer = Callable[[str, int, float], None]
"""Called after each response with the route's name, the HTTP status and the seconds it took."""

log = structlog.get_logger("evalworker")

DOCUMENT_PATH = "/openapi.json"
RETRY_AFTER_SECONDS = 5  # while the database is unavailable


class Gateway:
    """The judge API over the outbox."""

    def __init__(
        self,
        reader: DatabaseReader,
        group_commit: GroupCommit,
        keys: Keys,
        *,
        max_inputs: int,
        max_body_bytes: int,
        observe: Observer = lambda _route, _status, _seconds: None,
    ) -> None:
        self.reader = reader
        self.group_commit = group_commit
        self.keys = keys
        self.max_inputs = max_inputs
        self.max_body_bytes = max_body_bytes
        self.observe = observe
        self.document = document(max_inputs=max_inputs)

    def create_app(self) -> Starlette:
        routes = [
            self._route("submit", EXECUTE_PATH, self.submit, "POST"),
            self._route("list", LIST_PATH, self.list, "GET"),
            self._route("status", STATUS_PATH, self.status, "GET"),
            Route(DOCUMENT_PATH, self.show_document, methods=["GET"]),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: http_error_response, Exception: _server_error}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        # As at the judge API, a POST without the final slash is a 404: no client may rely on it.
        app.router.redirect_slashes = False
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.group_commit.close()
        self.reader.close()

    def _route(
        self,
        name: str,
        path: str,
        handle: Callable[[Request, Key], Awaitable[Response]],
        method: str,
    ) -> Route:
        """Authenticate each request, turn known errors into responses, and observe the outcome."""

        async def endpoint(request: Request) -> Response:
            began, status = time.monotonic(), 500
            try:
                response = await _respond(request)
                status = response.status_code
                return response
            finally:
                self.observe(name, status, time.monotonic() - began)

        @self._with_error_responses
        async def _respond(request: Request) -> Response:
            return await handle(request, self.keys.admit(request.headers.get("authorization")))

        return Route(path, endpoint, methods=[method])

    def _with_error_responses(self, handle: Endpoint) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                return await handle(request)
            except Problem as problem:
                return problem_response(problem)
            except ClientDisconnect:  # nobody receives this response
                return Response(status_code=400)
            except SQLAlchemyError as error:
                self.reader.outages.report(error, "gateway")
                detail = "Service temporarily unavailable."
                headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
                return problem_response(Problem(503, "service_unavailable", detail, headers))

        return endpoint

    async def submit(self, request: Request, key: Key) -> Response:
        """Respond 202 when the job is committed."""
        judge_id = request.path_params["judge_id"]
        key.check_judge(judge_id)
        if offences := judge_offences(judge_id):
            raise field_problem({"judge_id": offences})
        body = await read_json(request, max_bytes=self.max_body_bytes)
        pending = PendingSubmission(
            owner=key.name,
            judge_id=judge_id,
            body=read_submission(body, Submission, max_inputs=self.max_inputs),
            idempotency_key=checked_idempotency_key(request.headers.get("idempotency-key")),
            trace_context=request_traceparent(request.headers.get("traceparent")),
        )
        job_id = str(await submit(pending, self.group_commit, self.reader))
        accepted = Accepted(batch_execution_id=job_id, status_url=path(*EXECUTIONS, job_id))
        return JSONResponse(accepted, 202)

    async def status(self, request: Request, key: Key) -> Response:
        try:
            job_id = UUID(request.path_params["id"])
        except ValueError:
            raise execution_not_found() from None
        return await self.reader.run(partial(_status, job_id, key.name))

    async def list(self, request: Request, key: Key) -> Response:
        return await self.reader.run(
            partial(_list, request, key.name, read_query(request.query_params))
        )

    async def show_document(self, _: Request) -> Response:
        """Respond without asking for a key: the document is public."""
        return JSONResponse(self.document)


def _status(job_id: UUID, owner: str, connection: sa.Connection) -> Response:
    """Serialize in the reader's thread, too: a large job takes a while."""
    detail = gateway_queries.job_detail(connection, job_id, owner)
    if detail is None:
        raise execution_not_found()
    return JSONResponse(execution_body(detail))


def _list(request: Request, owner: str, query: ListQuery, connection: sa.Connection) -> Response:
    wanted = execution_filter(owner, query)
    page = page_of(gateway_queries.job_summaries(connection, wanted), wanted)

    def link(cursor: str | None) -> str | None:
        if cursor is None:
            return None
        return str(request.url.replace(query=urlencode({**request.query_params, "cursor": cursor})))

    rows = [execution_summary(row) for row in page.rows]
    return JSONResponse(Page(next=link(page.next), previous=link(page.previous), results=rows))


async def _server_error(_request: Request, error: Exception) -> Response:
    log.error("gateway.failed", exc_info=error)
    return problem_response(Problem(500, "error", "A server error occurred."))
