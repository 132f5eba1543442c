"""Respond late, wrongly or not at all, in front of a judge service that does everything right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from worker.judge.app import Handler
from worker.judge.engine import Failed
from worker.judge.judges import Judge, Result
from worker.sandbox.options import SandboxOptions
from worker.wire.pages import format_seconds
from worker.wire.problems import Problem, throttled


class LostResponse(Response):
    """A response that announces a body and sends none, so that the server closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})


class Faults:
    """The faults of a sandbox, by a seed. Not thread-safe: use it on one event loop.

    The `clock` returns seconds since 1970.
    """

    def __init__(self, options: SandboxOptions, *, clock: Callable[[], float] = time.time) -> None:
        self.options, self.clock = options, clock
        self.responses: Counter[str] = Counter()  # by endpoint and status
        self._numbers, self._items = count(1), count(1)
        self._recent: list[float] = []  # when requests were let in during the last second
        self._running: list[float] = []  # when batches end

    def in_front_of(self, endpoint: str, handle: Handler) -> Handler:
        """Return a handler that adds the faults of an endpoint to `handle`."""
        faulty = {"submit": self._submit, "list": self._list, "status": self._status}.get(endpoint)

        async def with_faults(request: Request) -> Any:
            status = 202 if endpoint == "submit" else 200
            try:
                if endpoint != "account":
                    self._throttle()
                return await (faulty(request, handle) if faulty else handle(request))
            except Problem as problem:
                status = problem.status
                raise
            finally:
                self.responses[f"{endpoint} {status}"] += 1

        return with_faults

    def measure(self, judge: Judge, fields: Mapping[str, Any]) -> list[Result | None]:
        """Measure an input, or raise `Failed` for a share of them."""
        if self.options.chance("item", next(self._items)) < self.options.fail_items:
            raise Failed("The evaluator did not answer in time.")
        return judge.measure(fields)

    def _throttle(self) -> None:
        now, limit = self.clock(), self.options.requests_per_second
        if self.options.chance("server error", next(self._numbers)) < self.options.server_errors:
            raise Problem(503, "service_unavailable", "Service temporarily unavailable.")
        self._recent = [moment for moment in self._recent if moment > now - 1.0]
        if limit is not None and len(self._recent) >= limit:
            raise self._throttled()
        self._recent.append(now)

    def _throttled(self) -> Problem:
        return throttled(1.0 if self.options.retry_after else None)

    async def _submit(self, request: Request, handle: Handler) -> Any:
        now, limit = self.clock(), self.options.max_running
        self._running = [end for end in self._running if end > now]
        if limit is not None and len(self._running) >= limit:
            raise self._throttled()
        accepted = await handle(request)
        batch_id = accepted["batch_execution_id"]
        self._running.append(now + self.options.latency_of(batch_id))
        lost = self.options.chance("lost", batch_id) < self.options.lose_answers
        return LostResponse(status_code=202) if lost else accepted

    async def _list(self, request: Request, handle: Handler) -> Any:
        """Filter by the status that is shown, not by the one that the service knows."""
        if not self.options.serve_list:
            raise Problem(404, "not_found", "Not found.")
        others = dict(request.query_params)
        status = others.pop("status", None)
        page = await handle(_with_query(request, others))
        for head in page["results"]:
            self._delay(head)
        if status is not None:
            page["results"] = [head for head in page["results"] if head["status"] == status]
            page["next"] = page["next"] and f"{page['next']}&{urlencode({'status': status})}"
        return page

    async def _status(self, request: Request, handle: Handler) -> Any:
        execution = await handle(request)
        items = execution["items"]
        if self._delay(execution, items):
            ended = [item for item in items if item["completed_at"]]
            for status in ("completed", "failed"):
                execution[f"{status}_count"] = sum(item["status"] == status for item in ended)
            shown = {"all": items, "partial": ended, "none": []}
            execution["items"] = items = shown[self.options.items_while_running]
        if self.options.shuffle_items:
            batch_id = execution["batch_execution_id"]
            items.sort(key=lambda item: self.options.chance("order", batch_id, item["index"]))
        return execution

    def _delay(self, head: dict[str, Any], items: Sequence[dict[str, Any]] = ()) -> bool:
        """Show a batch as if it took its latency; return whether it still runs.

        Items end one after the other, evenly over the time of the batch.
        """
        if not self.options.show_tags:
            del head["tags"]
        created_at = datetime.fromisoformat(head["created_at"]).timestamp()
        latency = self.options.latency_of(head["batch_execution_id"])
        elapsed = self.clock() - created_at
        for item in items:
            needed = latency * (item["index"] + 1) / len(items)
            if elapsed >= needed:
                item["completed_at"] = format_seconds(created_at + needed)
            else:
                item.update(status="processing", completed_at=None, execution_log_id=None)
                item.update(evaluator_results=None, error_message="")
        if elapsed >= latency:
            head["completed_at"] = format_seconds(created_at + latency)
            return False
        head.update(status="processing", completed_at=None, completed_count=0, failed_count=0)
        return True


def _with_query(request: Request, parameters: Mapping[str, str]) -> Request:
    query = urlencode(parameters).encode()
    return Request({**request.scope, "query_string": query}, request.receive)
