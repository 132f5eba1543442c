"""The API's paths, answers and errors, as an ASGI application."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.sandbox.judges import Judge, ad_hoc, load_judges
from worker.sandbox.problems import Problem, Submission, field_errors, field_problem
from worker.wire import MAX_INPUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from worker.sandbox.ledger import Ledger, StoredBatch
    from worker.sandbox.options import SandboxOptions

EXECUTIONS = "/v1/judges/batch-executions/"
LIST_PARAMETERS = frozenset(
    {"judge_id", "status", "date_from", "date_to", "page_size", "cursor", "project_id"}
)
MAX_PAGE = 100

_submission = TypeAdapter(Submission)


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
            self._route("submit", "/v1/judges/{judge_id}/batch-execute/", self.submit, "POST"),
            self._route("submit", "/v1/batch-executions/", self.submit, "POST"),
            self._route("list", EXECUTIONS, self.list, "GET"),
            self._route("status", EXECUTIONS + "{id}/", self.status, "GET"),
            self._route("account", "/sandbox/account/", self.account, "GET"),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _no_such_path})
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
                answer = problem.answer()
            self.ledger.count_request(kind, answer.status_code)
            return answer

        return Route(path, endpoint, methods=[method])

    async def _admit(self, request: Request, kind: str) -> Any:
        """What every request goes through first; returns the parsed body of a POST."""
        given = request.headers.get("authorization")
        if not given:
            raise Problem(401, "not_authenticated", "Authentication credentials were not provided.")
        if given != f"Api-Key {self.options.api_key}":
            raise Problem(401, "authentication_failed", "Invalid API key.")
        if kind != "account":
            self._throttle()
        if request.method != "POST":
            return None
        raw = await request.body()
        if len(raw) > self.options.max_body_bytes:
            raise Problem(413, "too_large", "Request body is too large.")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise Problem(400, "parse_error", "JSON parse error.") from None

    def _throttle(self) -> None:
        now = self.clock()
        with self._lock:
            self._requests += 1
            if self.options.chance("server error", self._requests) < self.options.server_errors:
                raise Problem(503, "service_unavailable", "Service temporarily unavailable.")
            self._recent = [moment for moment in self._recent if moment > now - 1.0]
            most = self.options.requests_per_second
            if most is not None and len(self._recent) >= most:
                raise self._throttled(1.0)
            self._recent.append(now)

    def _throttled(self, seconds: float) -> Problem:
        headers = {"Retry-After": f"{seconds:.0f}"} if self.options.retry_after else {}
        return Problem(429, "throttled", "Request was throttled.", headers)

    # --- the endpoints ---------------------------------------------------------------------------

    def submit(self, request: Request, body: Any) -> Response:
        try:
            given = _submission.validate_python(body)
        except ValidationError as error:
            raise field_problem(field_errors(error)) from None
        if not 1 <= len(given.inputs) <= MAX_INPUTS:
            raise field_problem({"inputs": [f"Between 1 and {MAX_INPUTS} inputs are allowed."]})
        judge = self._judge(request.path_params.get("judge_id"), given)
        now = self.clock()
        most = self.options.max_running
        if most is not None and self.ledger.running(now) >= most:
            raise self._throttled(1.0)
        batch_id = str(uuid4())
        self._take(batch_id, judge, given, now)
        if self.options.chance("lost", batch_id) < self.options.lose_answers:
            return LostAnswer(status_code=202)
        answer = {"batch_execution_id": batch_id, "status_url": f"{EXECUTIONS}{batch_id}/"}
        return JSONResponse(answer, 202)

    def _judge(self, named: str | None, given: Submission) -> Judge:
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

    def _take(self, batch_id: str, judge: Judge, given: Submission, now: float) -> None:
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
        shown = {
            name: given.get(name) for name in ("request", "response", "contexts", "expected_output")
        }
        log_id = str(uuid4())
        item = {"index": index, "input": {**shown, **given}, "execution_log_id": log_id}
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
            raise Problem(404, "not_found", "No BatchExecution matches the given query.")
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
        return JSONResponse({**head, "items": items})

    def _show_item(self, batch: StoredBatch, item: dict[str, Any], now: float) -> dict[str, Any]:
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

    def _show_head(self, batch: StoredBatch, now: float) -> dict[str, Any]:
        ended = now >= batch.ends_at
        head = {
            "batch_execution_id": batch.id,
            "status": "completed" if ended else "processing",
            "created_at": _iso(batch.created_at),
            "started_at": _iso(batch.created_at),
            "completed_at": _iso(batch.ends_at) if ended else None,
            **batch.head,
        }
        if not ended:
            head.update(completed_count=0, failed_count=0)
        if not self.options.show_tags:
            del head["tags"]
        return head

    def list(self, request: Request, _: Any) -> Response:
        if not self.options.serve_list:
            raise Problem(404, "not_found", "Not found.")
        asked = dict(request.query_params)
        unknown = sorted(asked.keys() - LIST_PARAMETERS)
        if unknown:
            raise field_problem({name: ["Unknown query parameter."] for name in unknown})
        size = min(_whole(asked, "page_size", MAX_PAGE), MAX_PAGE)
        before = _whole(asked, "cursor", 0) or None
        named = asked.get("judge_id")
        judge = self.judges.get(named) if named else None
        judge_id = judge.id if judge else named
        batches = self.ledger.list(judge_id=judge_id, before=before, limit=size + 1)
        page, now = batches[:size], self.clock()
        following = None
        if len(batches) > size:
            asked["cursor"] = str(page[-1].number)
            following = str(request.url.replace(query=urlencode(asked)))
        shown = partial(_is_asked_for, asked)
        rows = [self._show_head(batch, now) for batch in page]
        return JSONResponse(
            {"next": following, "previous": None, "results": [row for row in rows if shown(row)]}
        )

    def account(self, _request: Request, _: Any) -> Response:
        """Not of the API: what was taken and evaluated, for tests and demonstrations."""
        return JSONResponse(self.ledger.account())


async def _no_such_path(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "error")
    return Problem(status, code, str(getattr(error, "detail", error))).answer()


def _is_asked_for(asked: dict[str, str], row: dict[str, Any]) -> bool:
    return (
        asked.get("status") in (None, row["status"])
        and _moment(asked, "date_from", row["created_at"]) <= _at(row["created_at"])
        and _at(row["created_at"]) <= _moment(asked, "date_to", row["created_at"])
    )


def _moment(asked: dict[str, str], name: str, otherwise: str) -> datetime:
    try:
        return _at(asked.get(name, otherwise))
    except ValueError:
        raise field_problem({name: ["Enter a valid date-time."]}) from None


def _at(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _whole(asked: dict[str, str], name: str, otherwise: int) -> int:
    text = asked.get(name, str(otherwise))
    if not text.isdecimal():
        raise field_problem({name: ["A valid whole number is required."]})
    return int(text)
