"""The judge API in memory, behind httpx's mock transport.

`FakeJudgeAPI` has the batches and the shape of every response; a test decides what it answers.
The simulation derives its own from it, which misbehaves by chance.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

EXECUTIONS = "/v1/judges/batch-executions/"
BEGINNING_OF_TIME = "2000-01-01T00:00:00+00:00"
END_OF_TIME = "9000-01-01T00:00:00+00:00"


@dataclass(kw_only=True)
class AcceptedBatch:
    """A batch at the judge API."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    judge_id: str
    inputs: list[dict[str, Any]]
    tags: list[str] = field(default_factory=list)
    created_at: datetime


class FakeJudgeAPI:
    """Keeps what it is sent, and lies where a test wants it to.

    Each input's score is the length of its request, so that a result at the wrong index shows.
    """

    def __init__(self) -> None:
        self.batches: dict[str, Any] = {}  # of `AcceptedBatch` or derived, by id
        self.requests: list[httpx.Request] = []
        self.done = True  # whether batches have ended when they are asked for
        self.running: set[str] = set()  # of them, those that have not
        self.end = "completed"  # the status of batches that have ended
        self.list_lies = False  # it says that all have ended
        self.clock = timedelta(0)  # of the remote, ahead of ours
        self.shows_tags = True
        self.has_list = True
        self.filter = "kept"  # by status, of the list; else "ignored" or "refused"
        self.answers: list[Callable[[httpx.Request], httpx.Response | None]] = []
        self._lock = threading.RLock()  # a test may act from within an answer

    # --- for tests ---

    def next_answer(self, answer: Callable[[httpx.Request], httpx.Response | None]) -> None:
        """Answer the next request, and only that, by this function; None lets it pass as usual."""
        self.answers.append(answer)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def inputs(self) -> list[dict[str, Any]]:
        """Every input that was ever accepted, in order."""
        return [given for batch in self.batches.values() for given in batch.inputs]

    def posts(self) -> int:
        return sum(request.method == "POST" for request in self.requests)

    def accept(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        batch = AcceptedBatch(
            judge_id=judge_of(request),
            inputs=body["inputs"],
            tags=body.get("tags", []),
            created_at=datetime.now(UTC) + self.clock,
        )
        self.batches[batch.id] = batch
        return accepted(batch)

    def accept_and_lose(self, request: httpx.Request) -> httpx.Response:
        """Accept the batch; the response never arrives."""
        self.accept(request)
        raise httpx.ReadError("connection reset", request=request)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            if self.answers:
                answer = self.answers.pop(0)(request)
                if answer is not None:
                    return answer
            return self.respond(request)

    # --- the API ---

    def respond(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return self.accept(request)
        if request.url.path == EXECUTIONS:
            return self.list(request)
        return self.show(request)

    def show(self, request: httpx.Request) -> httpx.Response:
        batch = self.batches.get(request.url.path.rstrip("/").rpartition("/")[2])
        if batch is None or self.is_missing(batch):
            return httpx.Response(404, json={"detail": "Not found."})
        return httpx.Response(200, json=self.execution(batch))

    def list(self, request: httpx.Request) -> httpx.Response:
        if not self.has_list:
            return httpx.Response(404, json={"detail": "Not found."})
        asked = request.url.params
        since = datetime.fromisoformat(asked.get("date_from", BEGINNING_OF_TIME))
        until = datetime.fromisoformat(asked.get("date_to", END_OF_TIME))
        rows = [
            self.list_row(batch)
            for batch in self.batches.values()
            if asked.get("judge_id") in (None, batch.judge_id)
            and since <= batch.created_at <= until
            and self.is_listed(batch)
        ]
        if "status" in asked and self.filter == "refused":
            return httpx.Response(400, json={"status": ["Unknown parameter."]})
        if "status" in asked and self.filter == "kept":
            rows = [row for row in rows if row["status"] == asked["status"]]
        return self.page(rows, asked)

    def page(self, rows: Sequence[dict[str, Any]], asked: httpx.QueryParams) -> httpx.Response:
        return httpx.Response(200, json={"next": None, "previous": None, "results": rows})

    def list_row(self, batch: Any) -> dict[str, Any]:
        return self.head(batch) | ({"status": "completed"} if self.list_lies else {})

    def head(self, batch: Any) -> dict[str, Any]:
        head: dict[str, Any] = {
            "batch_execution_id": batch.id,
            "status": self.status_at_end(batch) if self.has_ended(batch) else "processing",
            "created_at": batch.created_at.isoformat(),
            "total_count": len(batch.inputs),
            "judge": {"id": "j", "name": "j", "version_id": "version-that-ran"},
        }
        return {**head, "tags": batch.tags} if self.shows_tags else head

    def execution(self, batch: Any) -> dict[str, Any]:
        ended = self.has_ended(batch)
        items = [
            {"index": index, "status": "processing", "input": given}
            | (self.evaluate(batch, index) if ended else {})
            for index, given in enumerate(batch.inputs)
        ]
        return {**self.head(batch), "items": items}

    # --- what a derived one decides otherwise ---

    def is_missing(self, batch: Any) -> bool:
        return False

    def is_listed(self, batch: Any) -> bool:
        return True

    def has_ended(self, batch: Any) -> bool:
        return self.done and batch.id not in self.running

    def status_at_end(self, batch: Any) -> str:
        return self.end

    def evaluate(self, batch: Any, index: int) -> dict[str, Any]:
        request = batch.inputs[index].get("request") or ""
        if request.startswith("fail"):
            return {"status": "failed", "error_message": f"cannot judge {request}"}
        score = {"evaluator_name": "length", "score": len(request) / 100, "justification": request}
        return {"status": "completed", "evaluator_results": [score]}


def judge_of(request: httpx.Request) -> str:
    return request.url.path.split("/")[3]


def accepted(batch: AcceptedBatch) -> httpx.Response:
    answer = {"batch_execution_id": batch.id, "status_url": f"{EXECUTIONS}{batch.id}/"}
    return httpx.Response(202, json=answer)


def answering(status: int, body: Any = None, **headers: str) -> Callable[[httpx.Request], Any]:
    """Return an answer for `FakeJudgeAPI.next_answer`."""
    return lambda _: httpx.Response(status, json=body or {"detail": "no"}, headers=headers)


def questions(count: int) -> list[str]:
    return [f"question {n}" for n in range(count)]
