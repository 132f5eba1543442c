"""Databases that break off, refuse, block or are full, in the middle of any transaction."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from structlog.testing import capture_logs

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.servers import wait_until
from worker.domain.backoff import MAX_CLAIMS
from worker.pipeline.actors import _guard
from worker.pipeline.brokers import close_broker, make_broker
from worker.store import job_completion
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from uuid import UUID

    from worker.store.transaction import Transaction

WORDS = {"SELECT", "INSERT", "UPDATE", "DELETE", "COMMIT"}
INPUTS = ["q1", "fail q2", "q3", "q4"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Stacks are logged by the hundred here; to render them would take longer than the tests."""
    with capture_logs():
        yield


class Resilient(ManualReplica):
    """A replica whose steps are taken as actors take them, and whose dispatcher is never gone."""

    at_work = False  # or else the test itself looks or changes something

    def step(self) -> None:
        self.at_work = True
        try:
            self.dispatcher.turn()
            self.deliver()
        except sa.exc.SQLAlchemyError:
            pass  # as `Dispatcher.run` takes it: the next turn may pass
        finally:
            self.at_work = False

    def deliver(self) -> None:
        sent, self.sent = self.sent, []
        for name, batch_id in sent:
            _guard(name, partial(self.run_step, name), self.context.record_surprise)(str(batch_id))


class Cuts:
    """Ends the connections of a replica at work, where `wanted` says so.

    It is asked before every statement, and at COMMIT, with all statements of the transaction so
    far. PostgreSQL itself ends the session, so what the client meets is the real thing. `after`:
    the statement is carried out, or the commit done, and then the answer is lost.
    """

    def __init__(
        self, replica: Resilient, wanted: Callable[[tuple[str, ...]], bool], *, after: bool
    ) -> None:
        self.replica, self.wanted, self.after = replica, wanted, after
        self.transaction: tuple[str, ...] = ()
        self.cut: list[tuple[str, ...]] = []
        engine = replica.database.engine
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "commit", self._commit)

    def _begin(self, _: sa.Connection) -> None:
        self.transaction = ()

    def _before(self, connection: sa.Connection, _: Any, statement: str, *rest: Any) -> None:
        self.transaction += (statement,)
        if not self.after:
            self._maybe_cut(connection)

    def _after(self, connection: sa.Connection, *_: Any) -> None:
        if self.after:
            self._maybe_cut(connection)

    def _commit(self, connection: sa.Connection) -> None:
        self.transaction += ("COMMIT",)
        if self.replica.at_work and self.wanted(self.transaction):
            if self.after:
                connection.connection.commit()
            self._kill(connection)

    def _maybe_cut(self, connection: sa.Connection) -> None:
        if self.replica.at_work and self.wanted(self.transaction):
            self._kill(connection)

    def _kill(self, connection: sa.Connection) -> None:
        self.cut.append(self.transaction)
        pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        url = self.replica.database.engine.url.set(drivername="postgresql")
        dsn = url.render_as_string(hide_password=False)
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def the_life_of_a_job(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    """All kinds of transactions: planned, split, lost and found, polled, retried, failed."""
    remote.answers.clear()
    remote.batches.clear()
    replica.enqueue(INPUTS)
    remote.next_answer(_too_large)
    remote.next_answer(remote.accept_and_lose)
    replica.finish()


def _too_large(_: Any) -> Any:
    return httpx.Response(413, json={"detail": "too large"})


def everything_ended_once(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    """The one that fails was tried three times, as set; the others were evaluated once."""
    ended = replica.rows(
        "SELECT i.request, i.status, i.attempts, count(s.job_id) FROM eval_items i"
        " LEFT JOIN eval_scores s ON s.job_id = i.job_id AND s.item_index = i.item_index"
        " GROUP BY i.job_id, i.item_index, i.request, i.status, i.attempts ORDER BY i.item_index"
    )
    assert [tuple(row) for row in ended] == [
        ("q1", "completed", 1, 1),
        ("fail q2", "failed", 3, 0),
        ("q3", "completed", 1, 1),
        ("q4", "completed", 1, 1),
    ]
    assert replica.every_result_is_at_its_own_input()
    assert replica.one("SELECT status FROM eval_jobs") == "completed"
    sent = sorted(given["request"] for given in remote.inputs())
    assert sent == sorted([*INPUTS, "fail q2", "fail q2"])
    names = replica.events()
    assert names.count("job.completed") == 1
    finished = replica.one("SELECT count(*) FROM eval_batches WHERE state = 'finished'")
    assert names.count("batch.finished") == finished == len(remote.batches)


@pytest.fixture
def replica(database_of_postgres: Database, monkeypatch: pytest.MonkeyPatch) -> Resilient:
    monkeypatch.setattr("worker.store.database.RETRY_WAIT_SECONDS", 0.001)
    return Resilient(database_of_postgres, FakeJudgeAPI())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "after",
    [pytest.param(False, marks=pytest.mark.long, id="before"), pytest.param(True, id="after")],
)
def test_a_connection_that_is_cut_at_any_statement_costs_no_result_and_doubles_none(
    replica: Resilient, after: bool
) -> None:
    """One that was never cut before in every turn, until each place of each transaction was."""
    known: set[tuple[str, ...]] = set()
    this_turn: list[bool] = []

    def wanted(transaction: tuple[str, ...]) -> bool:
        if this_turn or transaction in known:
            return False
        known.add(transaction)
        this_turn.append(True)
        return True

    turn = replica.dispatcher.turn
    replica.dispatcher.turn = lambda: this_turn.clear() or turn()  # type: ignore[method-assign,func-returns-value]
    cuts = Cuts(replica, wanted, after=after)
    lives = 0
    while lives == 0 or cuts.cut:
        cuts.cut.clear()
        live_through(replica)
        lives += 1
    assert {transaction[-1].split()[0] for transaction in known} >= WORDS
    assert len(known) > 60


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_connection_that_is_cut_once_at_the_nth_statement_costs_nothing_either(
    replica: Resilient, after: bool
) -> None:
    """At the first statement of a job's life, the second, and so on to the last."""
    seen = 0
    place = 0

    def wanted(_: tuple[str, ...]) -> bool:
        nonlocal seen
        seen += 1
        return seen == place

    cuts = Cuts(replica, wanted, after=after)
    while place == 0 or cuts.cut:
        cuts.cut.clear()
        seen, place = 0, place + 1
        live_through(replica)
    assert place > 100


def live_through(replica: Resilient) -> None:
    """A job's whole life, in an empty database."""
    tables = "eval_jobs, eval_batches, eval_events, eval_gates"
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {tables} CASCADE")
    replica.sent.clear()
    the_life_of_a_job(replica, replica.remote)
    everything_ended_once(replica, replica.remote)


# --- what the database refuses ------------------------------------------------------------------


def test_a_deadlock_is_run_again(replica: Resilient, postgres_url: str) -> None:
    """A real one: somebody else has a job's row and wants its batch, this worker the other way."""
    with replica.database.engine.begin() as connection:
        # The worker is the first to look for a deadlock, and so the one who is chosen.
        name = connection.engine.url.database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET deadlock_timeout = '1s'")
    replica.database.engine.dispose()
    replica.enqueue(["q1"])
    replica.step()
    replica.pass_time()
    with psycopg.connect(postgres_url) as other:
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("SELECT 1 FROM eval_jobs FOR UPDATE")
        polling = threading.Thread(target=replica.step)
        polling.start()
        wait_until(lambda: bool(replica.one(_WAITING)))
        other.execute("UPDATE eval_batches SET polls = polls")  # until the worker is chosen
        other.rollback()
        polling.join()
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_scores") == 1
    assert replica.one(_DEADLOCKS) == 1


_WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND application_name = 'evalworker'"
    " AND datname = current_database()"
)
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_stricter_isolation_by_default_changes_nothing(
    replica: Resilient, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two batches that end a job together, the second must see what the first recorded."""
    with replica.database.engine.begin() as connection:
        name = connection.engine.url.database
        connection.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
        )
    replica.database.engine.dispose()
    replica.context.policy = replace(replica.context.policy, batch_size=1)
    replica.enqueue(["q1", "q2"])
    replica.step()
    replica.pass_time()
    replica.dispatcher.turn()
    both = threading.Barrier(2)
    lock_jobs = job_completion.lock_jobs

    def together(tx: Transaction, job_ids: Collection[UUID]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(5)
        lock_jobs(tx, job_ids)

    monkeypatch.setattr("worker.store.job_completion.lock_jobs", together)
    polls = [threading.Thread(target=replica.poller.poll, args=[i]) for _, i in replica.sent]
    for poll in polls:
        poll.start()
    for poll in polls:
        poll.join()
    assert replica.one("SELECT status FROM eval_jobs") == "completed"
    assert replica.one("SELECT count(*) FROM eval_scores") == 2


def test_a_serialization_failure_is_run_again(replica: Resilient) -> None:
    """A real one: somebody commits a change of the row between this worker's look and its write."""
    strict = replica.database.engine.execution_options()
    looking, replica.database.engine = replica.database.engine, strict
    replica.enqueue(["q1"])
    interfered: list[str] = []
    failures: list[str | None] = []

    def tighten(_: sa.Connection, __: Any, statement: str, parameters: Any, *rest: Any) -> Any:
        return statement.replace("READ COMMITTED", "REPEATABLE READ"), parameters

    def note(context: sa.ExceptionContext) -> None:
        failures.append(getattr(context.original_exception, "sqlstate", None))

    def interfere(connection: sa.Connection, _: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE eval_batches") and replica.at_work:
            interfered.append(statement)
            if len(interfered) in (1, 3):
                connection.exec_driver_sql("SELECT 1")  # its snapshot is taken
                with looking.begin() as other:
                    other.exec_driver_sql("UPDATE eval_batches SET polls = polls")

    event.listen(strict, "before_cursor_execute", tighten, retval=True)
    event.listen(strict, "handle_error", note)
    event.listen(strict, "before_cursor_execute", interfere)
    replica.finish()
    assert len(interfered) > 3
    assert set(failures) == {"40001"}
    assert replica.one("SELECT count(*) FROM eval_scores") == 1
    assert replica.remote.posts() == 1


# --- SQLite --------------------------------------------------------------------------------------


@pytest.fixture
def lite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resilient]:
    monkeypatch.setattr("worker.store.database.RETRY_WAIT_SECONDS", 0.001)
    database = Database(sqlite_url)
    event.listen(database.engine, "connect", _patient_for_a_moment)
    yield Resilient(database, FakeJudgeAPI())
    database.close()


def _patient_for_a_moment(connection: sqlite3.Connection, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 5").close()


def test_a_busy_sqlite_delays_and_nothing_else(lite: Resilient, sqlite_url: str) -> None:
    """Another program writes for longer than the worker waits, before the claim or the record."""
    lite.enqueue(INPUTS)
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
        other.isolation_level = None

        def lock(_: httpx.Request) -> None:
            other.execute("BEGIN IMMEDIATE")

        for _ in range(3):
            lite.remote.next_answer(lock)  # its answer comes, and cannot be recorded
            lite.step()
            lite.step()  # nothing can be claimed or planned
            assert other.in_transaction
            other.execute("ROLLBACK")
            lite.pass_time()
        lite.finish()
    everything_ended_once(lite, lite.remote)


def test_a_full_disk_delays_and_holds_no_batch_back(lite: Resilient) -> None:
    """For much longer than a batch whose holders die is tried: claims fit, results do not."""
    lite.remote.done = False
    lite.enqueue([f"{n} {'x' * 3000}" for n in range(20)])
    lite.step()
    lite.pass_time()
    lite.remote.done = True
    with lite.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").close()

    event.listen(lite.database.engine, "begin", limit)
    for _ in range(3 * MAX_CLAIMS):
        lite.step()
        lite.pass_time()
    assert lite.states() == ["submitted"]
    assert "full" in lite.one("SELECT error FROM eval_batches")
    assert lite.one("SELECT count(*) FROM eval_scores") == 0
    event.remove(lite.database.engine, "begin", limit)
    pages = 1_000_000
    event.listen(lite.database.engine, "begin", limit)
    lite.finish()
    assert lite.one("SELECT count(*) FROM eval_scores") == 20
    assert lite.remote.posts() == 1


def test_a_machine_that_is_gone_without_a_word_is_noticed_on_every_connection(
    database_of_postgres: Database, postgres_url: str
) -> None:
    """Else what was asked of it hangs for as long as the system sends it again: 15 minutes."""
    kept = database_of_postgres.listening_connection()
    assert kept is not None
    broker: Any = make_broker(postgres_url)
    with broker.pool.connection() as message_carrying:
        for connection in (kept, message_carrying):
            given = connection.info.get_parameters()
            idle = [int(given[f"keepalives_{part}"]) for part in ("idle", "interval", "count")]
            assert idle[0] + idle[1] * idle[2] <= 30
            assert 0 < int(given["tcp_user_timeout"]) <= 30_000  # milliseconds
    kept.close()
    close_broker(broker)
