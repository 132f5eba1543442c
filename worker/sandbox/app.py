"""The API's paths, answers and errors, as an ASGI application."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.sandbox.judges import Judge, ad_hoc, load_judges
from worker.sandbox.ledger import Ledger, StoredBatch
from worker.sandbox.options import SandboxOptions
from worker.wire.asgi import no_such_path, problem_answer, read_json
from worker.wire.auth import key_in
from worker.wire.list_query import ListQuery, read_query, wrong_cursor
from worker.wire.paths import COMMON_PATH, EXECUTE_PATH, EXECUTIONS, LIST_PATH, STATUS_PATH, path
from worker.wire.problems import (
    Problem,
    field_problem,
    no_such_execution,
    not_authenticated,
    throttled,
    wrong_key,
)
from worker.wire.schemas import Accepted, Execution, Head, Item, Page, moment, shown_input
from worker.wire.submission import CommonSubmission, read_submission

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send


class LostAnswer(Response):
    """A head that promises a body, and no body: the server has to close the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})


class Sandbox:
    """The judge API over a ledger; `clock` is in seconds since 1970."""

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
        """The routes; a POST without the final slash finds nothing, as it must not be relied on."""
        routes = [
            self._route("submit", EXECUTE_PATH, self.submit, "POST"),
            self._route("submit", COMMON_PATH, self.submit, "POST"),
            self._route("list", LIST_PATH, self.list, "GET"),
            self._route("status", STATUS_PATH, self.status, "GET"),
            self._route("account", "/sandbox/account/", self.account, "GET"),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: no_such_path})
        app.router.redirect_slashes = False
        return app

    def _route(
        self, kind: str, path: str, handle: Callable[[Request, Any], Response], method: str
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = await self._admit(request, kind)
                answer = await run_in_threadpool(handle, request, body)
            except Problem as problem:
                answer = problem_answer(problem)
            self.ledger.count_request(kind, answer.status_code)
            return answer

        return Route(path, endpoint, methods=[method])

    async def _admit(self, request: Request, kind: str) -> Any:
        """What every request goes through first; returns the parsed body of a POST."""
        key = key_in(request.headers.get("authorization"))
        if key is None:
            raise not_authenticated()
        if key != self.options.api_key:
            raise wrong_key()
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
            most = self.options.requests_per_second
            if most is not None and len(self._recent) >= most:
                raise self._throttled()
            self._recent.append(now)

    def _throttled(self) -> Problem:
        return throttled(1.0 if self.options.retry_after else None)

    # --- the endpoints ---------------------------------------------------------------------------

    def submit(self, request: Request, body: Any) -> Response:
        given = read_submission(body, CommonSubmission)
        judge = self._judge(request.path_params.get("judge_id"), given)
        now = self.clock()
        most = self.options.max_running
        if most is not None and self.ledger.running(now) >= most:
            raise self._throttled()
        batch_id = str(uuid4())
        self._take(batch_id, judge, given, now)
        if self.options.chance("lost", batch_id) < self.options.lose_answers:
            return LostAnswer(status_code=202)
        answer = Accepted(batch_execution_id=batch_id, status_url=path(*EXECUTIONS, batch_id))
        return JSONResponse(answer, 202)

    def _judge(self, named: str | None, given: CommonSubmission) -> Judge:
        if named is None and given.evaluator_ids:
            judge = ad_hoc(given.evaluator_ids)
            if judge is None:
                raise field_problem({"evaluator_ids": ["Unknown evaluator."]})
            return judge
        judge = self.judges.get(named or given.judge_id or "")
        if judge is None:
            raise Problem(404, "not_found", "No Judge matches the given query.")
        if given.judge_version_id not in (None, judge.version_id):
            raise field_problem({"judge_version_id": ["Unknown version of this judge."]})
        return judge

    def _take(self, batch_id: str, judge: Judge, given: CommonSubmission, now: float) -> None:
        inputs = [one.model_dump(exclude_unset=True) for one in given.inputs]
        items = [self._evaluate(judge, index, one) for index, one in enumerate(inputs)]
        head = {
            "judge": {"id": judge.id, "name": judge.name, "version_id": judge.version_id},
            "tags": given.tags or [],
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

    def _evaluate(self, judge: Judge, index: int, given: dict[str, Any]) -> dict[str, Any]:
        """The item as it will end."""
        log_id = str(uuid4())
        item = {"index": index, "input": shown_input(given), "execution_log_id": log_id}
        missing = judge.missing(given)
        if missing:
            error = f"Judge '{judge.name}' requires {' and '.join(missing)}."
        elif self.options.chance("item", log_id) < self.options.fail_items:
            error = "The evaluator did not answer in time."
        else:
            results = judge.evaluate(given)
            return {**item, "status": "completed", "error_message": "", "results": results}
        return {**item, "status": "failed", "error_message": error, "results": None}

    def status(self, request: Request, _: Any) -> Response:
        batch = self.ledger.get(request.path_params["id"])
        if batch is None:
            raise no_such_execution()
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
                items, key=lambda item: self.options.chance("place", batch.id, item["index"])
            )
        return JSONResponse(Execution(**head, items=items))

    def _show_item(self, batch: StoredBatch, item: dict[str, Any], now: float) -> Item:
        """Items end one after the other, evenly over the time of the batch."""
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
            "started_at": _iso(batch.created_at),
            "completed_at": _iso(ends_at) if ended else None,
        }

    def _show_head(self, batch: StoredBatch, now: float) -> Head:
        ended, known = now >= batch.ends_at, batch.head
        head = Head(
            batch_execution_id=batch.id,
            status="completed" if ended else "processing",
            total_count=known["total_count"],
            completed_count=known["completed_count"] if ended else 0,
            failed_count=known["failed_count"] if ended else 0,
            created_at=_iso(batch.created_at),
            started_at=_iso(batch.created_at),
            completed_at=_iso(batch.ends_at) if ended else None,
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
            judge_id=judge_id, before=_number(query.cursor), limit=query.page_size + 1
        )
        page, now = batches[: query.page_size], self.clock()
        following = None
        if len(batches) > len(page):
            asked = {**request.query_params, "cursor": str(page[-1].number)}
            following = str(request.url.replace(query=urlencode(asked)))
        rows = [self._show_head(batch, now) for batch in page]
        shown = [row for row in rows if _is_asked_for(query, row)]
        return JSONResponse(Page(next=following, previous=None, results=shown))

    def account(self, _request: Request, _: Any) -> Response:
        """Not of the API: what was taken and evaluated, for tests and demonstrations."""
        return JSONResponse(self.ledger.account())


def _is_asked_for(query: ListQuery, row: Head) -> bool:
    created_at = datetime.fromisoformat(row["created_at"] or "")
    return (
        query.status in (None, row["status"])
        and (query.date_from is None or query.date_from <= created_at)
        and (query.date_to is None or created_at <= query.date_to)
    )


def _iso(seconds: float) -> str:
    return moment(datetime.fromtimestamp(seconds, UTC))


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isdecimal() and len(cursor) < 19):  # what SQLite can count to
        raise wrong_cursor()
    return int(cursor)
