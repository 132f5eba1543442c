"""A replica of the worker without a broker: a test plans, delivers and lets time pass."""

from __future__ import annotations

import itertools
import random
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.webhook_receiver import SECRET
from worker.outbox import enqueue
from worker.pipeline.context import Policy, StepContext
from worker.pipeline.dispatcher import Dispatcher
from worker.pipeline.heartbeat import Heartbeat
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
    from collections.abc import Sequence
    from uuid import UUID

    from worker.remote.api_key import ApiKey
    from worker.store.database import Database

POLICY = {
    "lease": 30.0,
    "max_in_flight": 20,
    "batch_size": 100,
    "linger": 0.0,
    "poll_min": 1.0,
    "poll_max": 30.0,
    "batch_timeout": 3600.0,
    "max_item_attempts": 3,
    "tag_batches": True,
    "resubmit_unlisted": True,
}


class ManualReplica:
    """One replica of the worker whose messages lie in a list until the test delivers them."""

    def __init__(
        self,
        database: Database,
        remote: FakeJudgeAPI,
        *,
        api_key: str | ApiKey = "key",
        holder: str | None = None,
        **policy: Any,
    ) -> None:
        self.database = database
        self.remote = remote
        self.api = JudgeAPI(
            base_url="https://judge.test",
            api_key=api_key,
            transport=remote.transport(),
            spacing=0.0,
        )
        self.sent: list[tuple[str, UUID]] = []
        self.webhooks: WebhookClient | None = None  # None: it signs, and allows private addresses
        given = Policy(**(POLICY | policy))
        self.context = StepContext(
            database, self.api, self, given, holder=holder or uuid.uuid4().hex, rng=random.Random(1)
        )
        self.poller = Poller(self.context)
        self.submitter = Submitter(self.context, self.poller, Recovery(self.context))
        self.list_watcher = ListWatcher(self.context)
        self.dispatcher = Dispatcher(self.context)
        self.heartbeat = Heartbeat(self.context)

    @cached_property
    def notices(self) -> NoticeSender:
        """Not before a test wants it: the certificates of the world are read for it."""
        webhooks = self.webhooks or WebhookClient([SECRET], allow_private=True)
        return NoticeSender(self.context, webhooks)

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
