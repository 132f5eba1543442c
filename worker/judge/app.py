"""Serve the API's paths and responses as an ASGI application, over the ledger and the engine."""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.judge.engine import Engine, Failed
from worker.judge.judges import Judge, Result, ad_hoc_judge
from worker.judge.ledger import NewItem, StoredBatch, StoredItem
from worker.judge.prompt import with_last_turns
from worker.judge.usage import exposition
from worker.wire.asgi import http_error_response, problem_response, read_json
from worker.wire.auth import key_from_header
from worker.wire.list_query import read_query
from worker.wire.pages import format_seconds, page_of, row_number
from worker.wire.paths import (
    COMMON_PATH,
    EXECUTE_PATH,
    EXECUTIONS,
    JUDGES_PATH,
    LIST_PATH,
    STATUS_PATH,
    path,
)
from worker.wire.problems import (
    Problem,
    execution_not_found,
    field_problem,
    invalid_key,
    not_authenticated,
)
from worker.wire.schemas import Accepted, Execution, Head, Item, Page, input_body
from worker.wire.submission import CommonSubmission, read_submission

MAX_BODY_BYTES = 32 * 1024 * 1024
Handler = Callable[[Request], Awaitable[Any]]
Layer = Callable[[str, Handler], Handler]
Measure = Callable[[Judge, dict[str, Any]], list[Result | None]]

log = structlog.get_logger("evalworker")


class AsciiJSON(JSONResponse):
    """JSON that can hold whatever texts a submission held, halves of surrogate pairs included."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class JudgeService:
    """The judge API; everything runs on the event loop that serves it.

    A `layer` takes the name of an endpoint and its handler, and returns what is called in its
    place. Handlers return a body or a whole response, or raise `Problem`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        layer: Layer = lambda _, handle: handle,
        measure: Measure = Judge.measure,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.engine, self.ledger = engine, engine.ledger
        self.layer, self.measure, self.max_body_bytes = layer, measure, max_body_bytes
        judges = engine.definitions.judges
        self.judges = {name: judge for judge in judges for name in (judge.name, judge.id)}
        for judge in judges:
            self.ledger.remember(judge)

    def create_app(self) -> Starlette:
        """Create the application. A POST without the final slash gets 404, not a redirect."""

        @asynccontextmanager
        async def working(_: Starlette) -> AsyncIterator[None]:
            async with self.engine.running():
                yield

        routes = [
            self.route("submit", EXECUTE_PATH, self.submit, method="POST", status=202),
            self.route("submit", COMMON_PATH, self.submit, method="POST", status=202),
            self.route("judges", JUDGES_PATH, self.list_judges),
            self.route("list", LIST_PATH, self.list),
            self.route("status", STATUS_PATH, self.status),
            self.route("metrics", "/metrics", self.metrics),
        ]
        app = Starlette(
            routes=routes, lifespan=working, exception_handlers={HTTPException: http_error_response}
        )
        app.router.redirect_slashes = False
        return app

    def route(
        self, name: str, path: str, handle: Handler, *, method: str = "GET", status: int = 200
    ) -> Route:
        """Return a route that lets in nobody without the key."""
        handle = self.layer(name, handle)

        async def endpoint(request: Request) -> Response:
            try:
                self._check_key(request)
                found = await handle(request)
            except Problem as problem:
                return problem_response(problem)
            except sqlite3.OperationalError as error:
                log.warning("judge.state_cannot_be_used", reason=str(error))
                reason = f"The state file of the judge cannot be used now: {error}."
                return problem_response(Problem(503, "service_unavailable", reason))
            return found if isinstance(found, Response) else AsciiJSON(found, status)

        return Route(path, endpoint, methods=[method])

    def _check_key(self, request: Request) -> None:
        key = self.engine.definitions.server_key
        if key is None:
            return
        given = key_from_header(request.headers.get("authorization"))
        if given is None:
            raise not_authenticated()
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise invalid_key()

    # --- the endpoints ---------------------------------------------------------------------------

    async def submit(self, request: Request) -> Accepted:
        body = await read_json(request, max_bytes=self.max_body_bytes)
        submission = read_submission(body, CommonSubmission)
        judge = self._judge(request.path_params.get("judge_id"), submission)
        reason = self.engine.spent_budget(judge)
        if reason is not None:  # not 429, which would stop submissions to all other judges, too
            raise Problem(403, "budget_spent", reason)
        inputs = [model.model_dump(exclude_unset=True) for model in submission.inputs]
        items = [self._new_item(judge, fields) for fields in inputs]
        batch_id = str(uuid4())
        self.engine.add(self.ledger.add(batch_id, judge, submission.tags or [], items))
        return Accepted(batch_execution_id=batch_id, status_url=path(*EXECUTIONS, batch_id))

    def _judge(self, judge_id: str | None, submission: CommonSubmission) -> Judge:
        if judge_id is None and submission.evaluator_ids:
            judge = ad_hoc_judge(submission.evaluator_ids, self.engine.definitions.judges)
            if judge is None:
                raise field_problem({"evaluator_ids": ["Unknown evaluator."]})
            return judge
        judge = self.judges.get(judge_id or submission.judge_id or "")
        if judge is None:
            raise Problem(404, "not_found", "No Judge matches the given query.")
        if submission.judge_version_id in (None, judge.version_id):
            return judge
        version = self.ledger.judge_version(submission.judge_version_id or "")
        if version is None or version.id != judge.id:
            raise field_problem({"judge_version_id": ["Unknown version of this judge."]})
        if not self.engine.definitions.can_judge(version):
            raise field_problem({"judge_version_id": ["Its model is no longer available."]})
        return version

    def _new_item(self, judge: Judge, fields: dict[str, Any]) -> NewItem:
        """Measure what needs no model."""
        known = with_last_turns(fields)
        missing = judge.missing_fields(known)
        if missing:
            error = f"Judge '{judge.name}' requires {' and '.join(missing)}."
            return NewItem(fields, str(uuid4()), error=error)
        try:
            return NewItem(fields, str(uuid4()), self.measure(judge, known))
        except Failed as failed:
            return NewItem(fields, str(uuid4()), error=str(failed))

    async def status(self, request: Request) -> Execution:
        batch = self.ledger.get(request.path_params["id"])
        if batch is None:
            raise execution_not_found()
        ended = batch.completed_at is not None
        reason = "" if ended else self.engine.why_waiting(self.engine.version(batch.version_id))
        items = [_show_item(batch, item, reason) for item in self.ledger.items(batch)]
        return Execution(**self._show_head(batch), items=items)

    async def list(self, request: Request) -> Page:
        query = read_query(request.query_params)
        judge = self.judges.get(query.judge_id) if query.judge_id else None
        batches = self.ledger.page(
            judge_id=judge.id if judge else query.judge_id,
            status=query.status,
            since=query.date_from.timestamp() if query.date_from else None,
            until=query.date_to.timestamp() if query.date_to else None,
            before=row_number(query.cursor),
            limit=query.page_size + 1,
        )
        return page_of(request, query, batches, self._show_head)

    async def list_judges(self, _: Request) -> dict[str, Any]:
        rows = [judge.list_row() for judge in self.engine.definitions.judges]
        return {"next": None, "previous": None, "results": rows}

    async def metrics(self, request: Request) -> Response:
        body, content_type = exposition(self.engine, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    def _show_head(self, batch: StoredBatch) -> Head:
        judge = self.engine.version(batch.version_id)
        return Head(
            batch_execution_id=batch.id,
            status="processing" if batch.completed_at is None else "completed",
            total_count=batch.total,
            completed_count=batch.completed,
            failed_count=batch.failed,
            created_at=format_seconds(batch.created_at),
            started_at=format_seconds(batch.created_at),
            completed_at=_time(batch.completed_at),
            judge={"id": judge.id, "name": judge.name, "version_id": batch.version_id},
            tags=batch.tags,
        )


def _show_item(batch: StoredBatch, item: StoredItem, why_waiting: str) -> Item:
    ended = item.completed_at is not None
    return Item(
        index=item.index,
        status=item.status,  # type: ignore[typeddict-item]
        input=input_body(item.input),
        evaluator_results=item.results if item.status == "completed" else None,  # type: ignore[typeddict-item]
        error_message=item.error if ended else why_waiting,
        execution_log_id=item.log_id if ended else None,
        started_at=format_seconds(batch.created_at),
        completed_at=_time(item.completed_at),
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else format_seconds(seconds)
