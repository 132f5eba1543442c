"""Serve the API's paths, responses and errors as an ASGI application."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from worker.sandbox.judges import Judge, ad_hoc_judge, load_judges
from worker.sandbox.ledger import Ledger, StoredBatch
from worker.sandbox.options import SandboxOptions
from worker.wire.asgi import http_error_response, problem_response, read_json
from worker.wire.auth import key_from_header
from worker.wire.list_query import ListQuery, read_query
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
    throttled,
)
from worker.wire.schemas import Accepted, Execution, Head, Item, input_body
from worker.wire.submission import CommonSubmission, read_submission


class LostResponse(Response):
    """A response that announces a body and sends none, so that the server closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})


class Sandbox:
    """The judge API over a ledger. The `clock` returns seconds since 1970."""

    def __init__(
        self, options: SandboxOptions, ledger: Ledger, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.options = options
        self.ledger = ledger
        self.clock = clock
        self.judges = load_judges()
        self._requests = 0
        self._recent: list[float] = []
        self._lock = threading.Lock()

    def create_app(self) -> Starlette:
        """Create the application. A POST without the final slash gets 404, not a redirect."""
        routes = [
            self._route("submit", EXECUTE_PATH, self.submit, "POST"),
            self._route("submit", COMMON_PATH, self.submit, "POST"),
            self._route("judges", JUDGES_PATH, self.list_judges, "GET"),
            self._route("list", LIST_PATH, self.list, "GET"),
            self._route("status", STATUS_PATH, self.status, "GET"),
            self._route("account", "/sandbox/account/", self.account, "GET"),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: http_error_response})
        app.router.redirect_slashes = False
        return app

    def _route(
        self, kind: str, path: str, handle: Callable[[Request, Any], Response], method: str
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = await self._admit(request, kind)
                response = await run_in_threadpool(handle, request, body)
            except Problem as problem:
                response = problem_response(problem)
            self.ledger.count_request(kind, response.status_code)
            return response

        return Route(path, endpoint, methods=[method])

    async def _admit(self, request: Request, kind: str) -> Any:
        """Check the key, throttle, and return the parsed body of a POST."""
        key = key_from_header(request.headers.get("authorization"))
        if key is None:
            raise not_authenticated()
        if key != self.options.api_key:
            raise invalid_key()
        if kind != "account":
            self._throttle()
        if request.method != "POST":
            return None
        return await read_json(request, max_bytes=self.options.max_body_bytes)

    def _throttle(self) -> None:
        now = self.clock()
        with self._lock:
            self._requests += 1
            if self.options.chance("server error", self._requests) < self.options.server_errors:
                raise Problem(503, "service_unavailable", "Service temporarily unavailable.")
            self._recent = [moment for moment in self._recent if moment > now - 1.0]
            limit = self.options.requests_per_second
            if limit is not None and len(self._recent) >= limit:
                raise self._throttled()
            self._recent.append(now)

    def _throttled(self) -> Problem:
        return throttled(1.0 if self.options.retry_after else None)

    # --- the endpoints ---------------------------------------------------------------------------

    def submit(self, request: Request, body: Any) -> Response:
        submission = read_submission(body, CommonSubmission)
        judge = self._judge(request.path_params.get("judge_id"), submission)
        now = self.clock()
        limit = self.options.max_running
        if limit is not None and self.ledger.running(now) >= limit:
            raise self._throttled()
        batch_id = str(uuid4())
        self._store(batch_id, judge, submission, now)
        if self.options.chance("lost", batch_id) < self.options.lose_answers:
            return LostResponse(status_code=202)
        accepted = Accepted(batch_execution_id=batch_id, status_url=path(*EXECUTIONS, batch_id))
        return JSONResponse(accepted, 202)

    def _judge(self, judge_id: str | None, submission: CommonSubmission) -> Judge:
        if judge_id is None and submission.evaluator_ids:
            judge = ad_hoc_judge(submission.evaluator_ids)
            if judge is None:
                raise field_problem({"evaluator_ids": ["Unknown evaluator."]})
            return judge
        judge = self.judges.get(judge_id or submission.judge_id or "")
        if judge is None:
            raise Problem(404, "not_found", "No Judge matches the given query.")
        if submission.judge_version_id not in (None, judge.version_id):
            raise field_problem({"judge_version_id": ["Unknown version of this judge."]})
        return judge

    def _store(self, batch_id: str, judge: Judge, submission: CommonSubmission, now: float) -> None:
        inputs = [model.model_dump(exclude_unset=True) for model in submission.inputs]
        items = [self._evaluate(judge, index, fields) for index, fields in enumerate(inputs)]
        head = {
            "judge": {"id": judge.id, "name": judge.name, "version_id": judge.version_id},
            "tags": submission.tags or [],
            "total_count": len(items),
            "completed_count": sum(item["status"] == "completed" for item in items),
            "failed_count": sum(item["status"] == "failed" for item in items),
        }
        self.ledger.add(
            batch_id,
            judge.id,
            created_at=now,
            ends_at=now + self.options.latency_of(batch_id),
            head=head,
            items=items,
        )

    def _evaluate(self, judge: Judge, index: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the item as it will end."""
        log_id = str(uuid4())
        item = {"index": index, "input": input_body(fields), "execution_log_id": log_id}
        missing = judge.missing_fields(fields)
        if missing:
            error = f"Judge '{judge.name}' requires {' and '.join(missing)}."
        elif self.options.chance("item", log_id) < self.options.fail_items:
            error = "The evaluator did not answer in time."
        else:
            results = judge.evaluate(fields)
            return {**item, "status": "completed", "error_message": "", "results": results}
        return {**item, "status": "failed", "error_message": error, "results": None}

    def status(self, request: Request, _: Any) -> Response:
        batch = self.ledger.get(request.path_params["id"])
        if batch is None:
            raise execution_not_found()
        now = self.clock()
        items = [self._show_item(batch, item, now) for item in batch.items]
        ended = [item for item in items if item["status"] in ("completed", "failed")]
        head = self._show_head(batch, now)
        if now < batch.ends_at:
            head["completed_count"] = sum(item["status"] == "completed" for item in ended)
            head["failed_count"] = sum(item["status"] == "failed" for item in ended)
            shown = {"all": items, "partial": ended, "none": []}
            items = shown[self.options.items_while_running]
        if self.options.shuffle_items:
            items = sorted(
                items, key=lambda item: self.options.chance("order", batch.id, item["index"])
            )
        return JSONResponse(Execution(**head, items=items))

    def _show_item(self, batch: StoredBatch, item: dict[str, Any], now: float) -> Item:
        """Show an item. Items end one after the other, evenly over the time of the batch."""
        span = batch.ends_at - batch.created_at
        ends_at = batch.created_at + span * (item["index"] + 1) / len(batch.items)
        ended = now >= ends_at
        return {
            "index": item["index"],
            "status": item["status"] if ended else "processing",
            "input": item["input"],
            "evaluator_results": item["results"] if ended else None,
            "error_message": item["error_message"] if ended else "",
            "execution_log_id": item["execution_log_id"] if ended else None,
            "started_at": format_seconds(batch.created_at),
            "completed_at": format_seconds(ends_at) if ended else None,
        }

    def _show_head(self, batch: StoredBatch, now: float) -> Head:
        ended, known = now >= batch.ends_at, batch.head
        head = Head(
            batch_execution_id=batch.id,
            status="completed" if ended else "processing",
            total_count=known["total_count"],
            completed_count=known["completed_count"] if ended else 0,
            failed_count=known["failed_count"] if ended else 0,
            created_at=format_seconds(batch.created_at),
            started_at=format_seconds(batch.created_at),
            completed_at=format_seconds(batch.ends_at) if ended else None,
            judge=known["judge"],
        )
        if self.options.show_tags:
            head["tags"] = known["tags"]
        return head

    def list(self, request: Request, _: Any) -> Response:
        if not self.options.serve_list:
            raise Problem(404, "not_found", "Not found.")
        query = read_query(request.query_params)
        judge = self.judges.get(query.judge_id) if query.judge_id else None
        judge_id = judge.id if judge else query.judge_id
        batches = self.ledger.list(
            judge_id=judge_id, before=row_number(query.cursor), limit=query.page_size + 1
        )
        now = self.clock()
        page = page_of(request, query, batches, lambda batch: self._show_head(batch, now))
        page["results"] = [row for row in page["results"] if _matches(query, row)]
        return JSONResponse(page)

    def list_judges(self, _request: Request, _: Any) -> Response:
        rows = [judge.list_row() for judge in dict.fromkeys(self.judges.values())]
        return JSONResponse({"next": None, "previous": None, "results": rows})

    def account(self, _request: Request, _: Any) -> Response:
        """Return what was evaluated, for tests and demos; the real API has no such path."""
        return JSONResponse(self.ledger.account())


def _matches(query: ListQuery, row: Head) -> bool:
    created_at = datetime.fromisoformat(row["created_at"] or "")
    return (
        query.status in (None, row["status"])
        and (query.date_from is None or query.date_from <= created_at)
        and (query.date_to is None or created_at <= query.date_to)
    )
