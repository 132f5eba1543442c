"""The judge API in memory, behind httpx's mock transport: a test decides each of its answers."""

from __future__ import annotations

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

EXECUTIONS = "/v1/judges/batch-executions/"


class FakeJudgeAPI:
    """The judge API behind httpx's mock transport: keeps what it is sent, and lies when told to.

    Each input's score is the length of its request, so that a result at the wrong place shows.
    """

    def __init__(self) -> None:
        self.batches: dict[str, dict[str, Any]] = {}
        self.requests: list[httpx.Request] = []
        self.done = True  # whether batches have ended when they are asked for
        self.running: set[str] = set()  # of them, those that have not
        self.end = "completed"  # the status of batches that have ended
        self.list_lies = False  # it says that all have ended
        self.clock = timedelta(0)  # of the remote, ahead of ours
        self.shows_tags = True
        self.has_list = True
        self.has_filter = True  # its list can be asked for one status
        self.answers: list[Callable[[httpx.Request], httpx.Response | None]] = []
        self._lock = threading.RLock()  # a test may act from within an answer

    def next_answer(self, answer: Callable[[httpx.Request], httpx.Response | None]) -> None:
        """For the next request only; None lets it pass as usual."""
        self.answers.append(answer)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def inputs(self) -> list[dict[str, Any]]:
        """Every input that was ever taken, in order."""
        return [given for batch in self.batches.values() for given in batch["body"]["inputs"]]

    def posts(self) -> int:
        return sum(request.method == "POST" for request in self.requests)

    def accept(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        batch_id = str(uuid.uuid4())
        judge_id = request.url.path.split("/")[3]
        created_at = datetime.now(UTC) + self.clock
        self.batches[batch_id] = {"body": body, "judge_id": judge_id, "created_at": created_at}
        answer = {"batch_execution_id": batch_id, "status_url": f"{EXECUTIONS}{batch_id}/"}
        return httpx.Response(202, json=answer)

    def accept_and_lose(self, request: httpx.Request) -> httpx.Response:
        """The batch is taken, the answer never arrives."""
        self.accept(request)
        raise httpx.ReadError("connection reset", request=request)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            if self.answers:
                answer = self.answers.pop(0)(request)
                if answer is not None:
                    return answer
            if request.method == "POST":
                return self.accept(request)
            if request.url.path == EXECUTIONS:
                return self._list(request)
            return self._status(request)

    def _list(self, request: httpx.Request) -> httpx.Response:
        if not self.has_list:
            return httpx.Response(404, json={"detail": "Not found."})
        asked = request.url.params
        since = datetime.fromisoformat(asked.get("date_from", "2000-01-01T00:00:00+00:00"))
        until = datetime.fromisoformat(asked.get("date_to", "9000-01-01T00:00:00+00:00"))
        rows = [
            self._head(batch_id) | ({"status": "completed"} if self.list_lies else {})
            for batch_id, batch in self.batches.items()
            if asked.get("judge_id") in (None, batch["judge_id"])
            and since <= batch["created_at"] <= until
        ]
        if "status" in asked:
            if not self.has_filter:
                return httpx.Response(400, json={"status": ["Unknown parameter."]})
            rows = [row for row in rows if row["status"] == asked["status"]]
        return httpx.Response(200, json={"next": None, "previous": None, "results": rows})

    def _status(self, request: httpx.Request) -> httpx.Response:
        batch_id = request.url.path.rstrip("/").rpartition("/")[2]
        if batch_id not in self.batches:
            return httpx.Response(404, json={"detail": "Not found."})
        return httpx.Response(200, json=self.execution(batch_id))

    def _head(self, batch_id: str) -> dict[str, Any]:
        body = self.batches[batch_id]["body"]
        head: dict[str, Any] = {
            "batch_execution_id": batch_id,
            "status": self.end if self.has_ended(batch_id) else "processing",
            "created_at": self.batches[batch_id]["created_at"].isoformat(),
            "total_count": len(body["inputs"]),
            "judge": {"id": "j", "name": "j", "version_id": "version-that-ran"},
        }
        return {**head, "tags": body.get("tags", [])} if self.shows_tags else head

    def has_ended(self, batch_id: str) -> bool:
        return self.done and batch_id not in self.running

    def execution(self, batch_id: str) -> dict[str, Any]:
        inputs = self.batches[batch_id]["body"]["inputs"]
        ended = self.has_ended(batch_id)
        return {
            **self._head(batch_id),
            "items": [self._item(place, given, ended) for place, given in enumerate(inputs)],
        }

    def _item(self, place: int, given: dict[str, Any], ended: bool) -> dict[str, Any]:
        request = given.get("request") or ""
        item: dict[str, Any] = {"index": place, "status": "processing", "input": given}
        if not ended:
            return item
        if request.startswith("fail"):
            return {**item, "status": "failed", "error_message": f"cannot judge {request}"}
        score = {
            "evaluator_name": "length",
            "score": len(request) / 100,
            "justification": request,
        }
        return {**item, "status": "completed", "evaluator_results": [score]}
