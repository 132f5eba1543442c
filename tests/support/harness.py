"""Steps and dispatcher without a broker: a test plans, delivers and makes due what it wants."""

from __future__ import annotations

import itertools
import json
import random
import threading
import uuid
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa

from tests.support.receivers import SECRET
from worker.outbox import enqueue
from worker.pipeline.context import Policy, StepContext
from worker.pipeline.dispatcher import Dispatcher
from worker.pipeline.list_watcher import ListWatcher
from worker.pipeline.poll import Poller
from worker.pipeline.recover import Recovery
from worker.pipeline.submit import Submitter
from worker.remote import JudgeAPI
from worker.store.sql_functions import later
from worker.store.tables import batches, gates, items, jobs, notices, pace
from worker.webhooks.client import WebhookClient
from worker.webhooks.deliver import NoticeSender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from worker.store.database import Database

EXECUTIONS = "/v1/judges/batch-executions/"
POLICY = {
    "lease": 30.0,
    "max_in_flight": 20,
    "poll_min": 1.0,
    "poll_max": 30.0,
    "batch_timeout": 3600.0,
    "max_item_attempts": 3,
    "tag_batches": True,
    "resubmit_unlisted": True,
}


class FakeRemote:
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


class Bench:
    """One replica of the worker whose messages lie in a list until the test delivers them."""

    def __init__(
        self, database: Database, remote: FakeRemote, *, batch_size: int = 100, **policy: Any
    ) -> None:
        self.database = database
        self.remote = remote
        self.api = JudgeAPI(
            base_url="https://judge.test",
            api_key="key",
            transport=remote.transport(),
            spacing=0.0,
        )
        self.sent: list[tuple[str, UUID]] = []
        self.webhooks: WebhookClient | None = None  # None: it signs, and allows private addresses
        given = Policy(**(POLICY | policy))
        self.context = StepContext(
            database, self.api, self, given, holder=uuid.uuid4().hex, rng=random.Random(1)
        )
        self.poller = Poller(self.context)
        self.submitter = Submitter(self.context, self.poller, Recovery(self.context))
        self.list_watcher = ListWatcher(
            database,
            self.api,
            self,
            self.context.durations,
            poll_max=given.poll_max,
            batch_timeout=given.batch_timeout,
            rng=random.Random(1),
        )
        self.dispatcher = Dispatcher(
            database,
            self,
            max_in_flight=given.max_in_flight,
            batch_size=batch_size,
            linger=0.0,
        )

    @cached_property
    def notices(self) -> NoticeSender:
        """Not before a test wants it: the certificates of the world are read for it."""
        return NoticeSender(
            self.database,
            self.webhooks or WebhookClient([SECRET], allow_private=True),
            holder=self.context.holder,
            lease=self.context.policy.lease,
            rng=random.Random(1),
        )

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self.sent.append(("submit", batch_id))

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self.sent.append(("poll", batch_id))

    def notify(self, notice_id: UUID) -> None:
        self.sent.append(("notify", notice_id))

    def room(self) -> None:
        """The test plans when it wants to."""

    def enqueue(self, inputs: Sequence[str], judge_id: str = "judge", **job: Any) -> UUID:
        with self.database.engine.begin() as connection:
            return enqueue(
                connection,
                judge_id=judge_id,
                inputs=[{"request": text, "response": "…"} for text in inputs],
                **job,
            )

    def deliver(self) -> None:
        """Every message that was sent so far, once."""
        sent, self.sent = self.sent, []
        for name, row_id in sent:
            self.run_step(name, row_id)

    def run_step(self, name: str, row_id: UUID) -> None:
        """The step of an actor."""
        match name:
            case "submit":
                self.submitter.submit(row_id)
            case "poll":
                self.poller.poll(row_id)
            case _:
                self.notices.notify(row_id)

    def step(self) -> None:
        """One round: plan, deliver."""
        self.dispatcher.turn()
        self.deliver()

    def pass_time(self, seconds: float = 0.0) -> None:
        """Everything that waits is due; submissions look `seconds` older."""
        with self.database.engine.begin() as connection:
            past = later(sa.literal(-60.0))
            for table in (batches, jobs, notices):
                connection.execute(
                    sa.update(table).where(table.c.due_at.isnot(None)).values(due_at=past)
                )
            connection.execute(
                sa.update(items).where(items.c.status == "pending").values(due_at=past)
            )
            for table in (batches, notices):
                connection.execute(sa.update(table).values(nudged_at=None))
            connection.execute(sa.update(gates).values(opens_at=past, probing_until=past))
            if seconds:
                connection.execute(
                    sa.update(batches)
                    .where(batches.c.submitted_at.isnot(None))
                    .values(submitted_at=later(sa.literal(-seconds)))
                )

    def let_the_watch_be_due(self) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(sa.update(pace).values(watch_due_at=later(sa.literal(-1.0))))

    def finish(self, rounds: int = 40) -> None:
        """Rounds until no job is open."""
        for _ in range(rounds):
            self.step()
            if not self.open_jobs():
                return
            self.pass_time()
        raise AssertionError(f"not finished after {rounds} rounds: {self.batches()}")

    def open_jobs(self) -> int:
        return len(self.rows("SELECT 1 FROM eval_jobs WHERE finished_at IS NULL"))

    def rows(self, query: str) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.exec_driver_sql(query).all())

    def one(self, query: str) -> Any:
        (row,) = self.rows(query)
        return row[0] if len(row) == 1 else row

    def batches(self) -> list[Any]:
        return self.rows("SELECT state, error FROM eval_batches ORDER BY created_at, id")

    def states(self) -> list[str]:
        return [state for state, _ in self.batches()]

    def events(self) -> list[str]:
        return list(itertools.chain(*self.rows("SELECT event FROM eval_events ORDER BY id")))

    def every_result_is_at_its_own_input(self) -> bool:
        """Requests and justifications are the same texts in the fake remote."""
        wrong = self.one(
            "SELECT count(*) FROM eval_scores s JOIN eval_items i"
            " ON i.job_id = s.job_id AND i.item_index = s.item_index"
            " WHERE i.request <> s.justification"
        )
        return bool(wrong == 0)
