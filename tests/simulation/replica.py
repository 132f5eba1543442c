"""One process of the worker: what it knows in memory is gone when it dies, its rows are not."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from greenlet import greenlet
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tests.simulation.fast_engine import FastEngine
from tests.simulation.faults import happens
from worker.pipeline.context import Policy, StepContext
from worker.pipeline.dispatcher import TROUBLE_SECONDS, Dispatcher
from worker.pipeline.heartbeat import Heartbeat
from worker.pipeline.list_watcher import ListWatcher
from worker.pipeline.poll import Poller
from worker.pipeline.recover import Recovery
from worker.pipeline.submit import Submitter
from worker.remote import JudgeAPI
from worker.store.database import Database
from worker.store.migrate import upgrade
from worker.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from tests.simulation.world import World

Result = TypeVar("Result")

TROUBLE = "database is locked (simulated)"


class Crash(BaseException):
    """The process dies here: nothing after this line runs, nothing in memory survives."""


class Replica:
    """Its clock is its own: up to half a minute from the others', its monotonic one by more."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.skew = world.skew()
        self.paused_until = 0.0
        self.dead = False
        self.tasks: list[Task] = []
        world.processes += 1
        rng = world.rng
        policy = Policy(
            lease=world.lease,
            max_in_flight=world.max_in_flight,
            batch_size=world.batch_size,
            linger=world.linger,
            poll_min=1.0,
            poll_max=30.0,
            batch_timeout=world.batch_timeout,
            max_item_attempts=world.max_item_attempts,
            tag_batches=happens(rng, 0.5),
            resubmit_unlisted=world.resubmit_unlisted,
        )
        api = JudgeAPI(
            base_url="https://judge.test",
            api_key="key",
            transport=httpx.MockTransport(world.remote.send),
            spacing=0.0,
        )
        self.context = StepContext(
            world.database,
            api,
            self,
            policy,
            holder=f"process {world.processes}",
            rng=world.jitter,
            monotonic=self.monotonic,
        )
        self.poller = Poller(self.context)
        self.submitter = Submitter(self.context, self.poller, Recovery(self.context))
        self.list_watcher = ListWatcher(self.context)
        self.dispatcher = Dispatcher(self.context)
        self.heartbeat = Heartbeat(self.context)

    def monotonic(self) -> float:
        return self.world.now + 1000.0 * self.skew

    def deliver(self, name: str, batch_id: UUID) -> None:
        """What the actor does with a message."""

        def work() -> None:
            task.note_standby()
            try:
                step = self.poller.poll if name == "poll" else self.submitter.submit
                step(batch_id)
            except SQLAlchemyError as error:
                if TROUBLE not in str(error):
                    raise
                task.throttled.clear()  # it is not on record
                self.context.record_surprise(batch_id, error)

        task = Task(self, work, batch_id)
        task.resume()

    def turn(self) -> None:
        """What the dispatcher's thread does, once."""

        def work() -> None:
            try:
                self.dispatcher.turn()
            except SQLAlchemyError as error:
                if TROUBLE not in str(error):
                    raise
                self.world.turn_failed(TROUBLE_SECONDS)

        Task(self, work).resume()

    def look(self) -> None:
        """What the thread of the watch does, once."""

        def work() -> None:
            task.note_standby()
            try:
                self.list_watcher.turn()
            except SQLAlchemyError as error:
                if TROUBLE not in str(error):
                    raise
                task.throttled.clear()  # it is not on record

        task = Task(self, work)
        task.resume()

    # --- the messages that its steps and its dispatcher send ---

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self.world.send("submit", batch_id, delay)

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self.world.send("poll", batch_id, delay)

    def notify(self, notice_id: UUID) -> None:
        raise AssertionError("no job of the simulation asks for a notice")

    def room(self) -> None:
        self.world.wake()


class Task:
    """A thread of a replica; goes on until it waits for something, then others act."""

    def __init__(
        self, replica: Replica, work: Callable[[], None], batch_id: UUID | None = None
    ) -> None:
        self.replica = replica
        self.work = work
        self.batch_id = batch_id  # whose step this is
        self.began = replica.world.now
        self.stood_by_at: float | None = None  # when it began, if others had its work to do
        self.claims: dict[str, int] = {}  # epochs, by batch
        self.throttled: list[tuple[str, float]] = []  # what it was told: which requests, until when
        self.greenlet = greenlet(self._run)
        replica.tasks.append(self)

    def _run(self) -> None:
        try:
            self.work()
        except Crash:
            self.replica.dead = True
        else:
            self.replica.world.throttles += [
                (kind, self.replica.world.now, until) for kind, until in self.throttled
            ]

    def resume(self) -> None:
        if self.greenlet.dead:
            return
        world = self.replica.world
        world.running = self
        try:
            self.greenlet.switch()
        finally:
            world.running = None
        if self.greenlet.dead:
            self.replica.tasks.remove(self)

    def note_standby(self) -> None:
        """Note that the work is left to others, unless it took time to find that out."""
        asked_at = self.replica.world.now
        stands_by = self.replica.context.standby.stands_by()
        self.stood_by_at = asked_at if stands_by else None

    def wait(self) -> None:
        """Others act until somebody resumes this task."""
        hub = self.greenlet.parent
        assert hub is not None
        hub.switch()

    def kill(self) -> None:
        if not self.greenlet.dead:
            self.greenlet.throw(Crash)


class SimulatedDatabase(Database):
    """The real one, on which a process can die, sleep or be told lies before and after commits."""

    world: World
    raw: sqlite3.Connection

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__("sqlite://", clock=self._now)
        upgrade(self)
        self.plain = self.engine
        raw = self.engine.raw_connection().driver_connection
        assert raw is not None
        self.raw = raw
        if plain:
            self._trouble_commits()
        else:
            self.engine = FastEngine(raw, self._trouble)  # type: ignore[assignment]

    def _trouble_commits(self) -> None:
        dialect = self.engine.dialect
        commit = dialect.do_commit

        def do_commit(connection: Any) -> None:
            self._trouble("busy")
            commit(connection)
            self._trouble("lost_commit")

        dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]

    def close(self) -> None:
        super().close()
        self.plain.dispose()

    def _now(self) -> float:
        return self.world.now if hasattr(self, "world") else 0.0

    def _trouble(self, kind: str) -> None:
        world = getattr(self, "world", None)
        if world is not None and world.running is not None and world.strikes(kind):
            cause = sqlite3.OperationalError(TROUBLE)
            raise OperationalError("COMMIT", None, cause) from cause

    def run(self, work: Callable[[Transaction], Result], *, actor: str | None = None) -> Result:
        world = getattr(self, "world", None)
        if world is None or world.running is None:
            return super().run(work, actor=actor)

        task = world.running
        claims = dict(task.claims)

        def dying(tx: Transaction) -> Result:
            task.claims = dict(claims)  # what an earlier try had claimed was rolled back
            result = work(tx)
            world.maybe_crash()
            return result

        result = super().run(dying, actor=actor)
        world.maybe_crash()
        if world.strikes("pause"):  # where it matters most: between a claim and its request
            world.put_to_sleep(world.running.replica)
            world.sleep(0.0)
        elif world.strikes("yield_after_commit"):
            world.sleep(0.0)
        return result
