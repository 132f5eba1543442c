"""The clock and the agenda: one thing happens after another, and the checks after each."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from tests.simulation import faults, invariants
from tests.simulation.judge_api import SimulatedJudgeAPI
from tests.simulation.replica import Crash, Replica, Task
from tests.simulation.users import Users
from worker.pipeline.dispatcher import SWEEP_SECONDS
from worker.store.column_types import time_text
from worker.store.leases import NUDGE_AFTER, NUDGE_AGAIN

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from tests.simulation.replica import SimulatedDatabase

EVENTS = 60  # of a schedule, before everything is well again
CALM_EVENTS = 4000  # within which it must then come to its end
BEGINNING = 1_800_000_000.0
SKEW = 30.0  # seconds between the clocks of two machines, at most
TURN_SECONDS = 1.0  # between two turns that nobody woke
LOOKS = 0.2  # of the list, by somebody, after an event
A_MOMENT = 0.001  # seconds; what is due then is surely due
NEVER = float("inf")
PAUSED = "EXISTS (SELECT 1 FROM eval_pauses p WHERE p.judge_id IN ('', j.judge_id))"


class Moment(NamedTuple):
    """On the agenda: from when on, what, and in which process, if in one."""

    at: float
    act: Callable[[], None]
    replica: Replica | None
    outside: bool = False


class World:
    """Time, the remote, the broker and the replicas of one schedule."""

    def __init__(self, rng: Random, database: SimulatedDatabase) -> None:
        self.rng = rng
        self.jitter = Random(1)
        self.now = BEGINNING
        self.database = database
        self.raw: sqlite3.Connection = database.raw
        self.faults = faults.drawn(rng)
        self.running: Task | None = None
        self.agenda: list[Moment] = []
        self.messages: list[Moment] = []
        self.requests_under_way = 0  # that may yet have an effect
        self.throttles: list[tuple[str, float, float]] = []  # kind of request, since, until
        self.pauses: dict[str | None, float] = {}  # by judge, None for all: since when
        self.allowed: Counter[str] = Counter()  # evaluations of each text, for a start
        self.late_jobs: set[str] = set()  # whose producer adds inputs when it likes
        self.processes = self.ids = 0
        self.have_heartbeats = False  # of which nobody asks, but who has lost its key
        self.skewed = faults.happens(rng, 0.5)
        self.max_in_flight = rng.choice([1, 2, 5])
        self.max_item_attempts = rng.choice([3, 2])
        self.batch_size = rng.choice([1, 2, 3, 5])
        self.batch_timeout = rng.choice([600.0, 100.0])
        self.linger = rng.choice([0.0, 0.0, 5.0])
        self.lease = 30.0
        self.resubmit_unlisted = not faults.happens(rng, 0.3)
        self.remote = SimulatedJudgeAPI(self)
        self.users = Users(self)
        self.replicas = [Replica(self, number) for number in range(rng.choice([1, 2, 3]))]
        self._turned_at = self._turn_wanted_at = BEGINNING
        self._woken, self._seen_changes = True, -1
        self._written = -1

    # --- chance and time ---

    def strikes(self, kind: str) -> bool:
        return faults.happens(self.rng, getattr(self.faults, kind))

    def maybe_crash(self) -> None:
        if self.strikes("crash"):
            raise Crash

    def skew(self) -> float:
        return self.rng.uniform(-SKEW, SKEW) / 2 if self.skewed else 0.0

    def local_time(self) -> float:
        """What the clock of the machine shows on which the running task runs."""
        return self.now + (self.running.replica.skew if self.running else 0.0)

    def monotonic(self) -> float:
        return self.running.replica.monotonic() if self.running else self.now

    def sleep(self, seconds: float) -> None:
        """Of the running task: others act meanwhile."""
        task = self.running
        assert task is not None
        self.at(seconds, task.resume, task.replica)
        task.wait()

    def uuid7(self) -> UUID:
        """In the order of their making on one machine, as the real ones are."""
        self.ids += 1
        return UUID(int=(int(self.local_time() * 1000) << 80) | (7 << 76) | (2 << 62) | self.ids)

    def at(
        self,
        delay: float,
        act: Callable[[], None],
        replica: Replica | None = None,
        *,
        outside: bool = False,
    ) -> None:
        self.agenda.append(Moment(self.now + delay, act, replica, outside))

    # --- the rows, as they are ---

    def sql(self, query: str, given: tuple[Any, ...] = ()) -> list[Any]:
        return self.raw.execute(query, given).fetchall()

    @staticmethod
    def text(moment: float) -> str:
        return time_text(datetime.fromtimestamp(moment, UTC))

    # --- the broker ---

    def send(self, name: str, batch_id: UUID, delay: float) -> None:
        self.maybe_crash()
        if self.strikes("drop_message"):
            return
        if self.strikes("late_message"):
            delay += self.rng.uniform(0, 120)

        def deliver() -> None:
            if self.strikes("double_message"):
                self.messages.append(Moment(self.now + self.rng.uniform(0, 60), deliver, None))
            self._somebody().deliver(name, batch_id)

        margin = 0.05 if delay else 0.0
        self.messages.append(Moment(self.now + delay + margin, deliver, None))

    def lose_all_messages(self) -> None:
        self.messages.clear()

    # --- what happens next ---

    def run(self) -> None:
        """From the first enqueue to the end of every job; raises where a promise is broken."""
        self.users.plan()
        self._go_on(EVENTS)
        self.faults = faults.Faults()
        self.users.mend()
        self.rng = Random(2)
        self._go_on(CALM_EVENTS, calm=True)
        assert self._is_over(), f"no end: {self.sql('SELECT state, error FROM eval_batches')}"
        invariants.check_at_the_end(self)

    def _go_on(self, events: int, *, calm: bool = False) -> None:
        for _ in range(events):
            if calm:
                self.users.resolve(calm=True)
            if not self.event():
                return
            if self.raw.total_changes != self._written:
                invariants.check_always(self)
                self._written = self.raw.total_changes
                if self._is_over():
                    return

    def _is_over(self) -> bool:
        open_rows = self.sql(
            "SELECT 1 FROM eval_jobs WHERE finished_at IS NULL UNION ALL"
            " SELECT 1 FROM eval_batches WHERE finished_at IS NULL UNION ALL"
            " SELECT 1 FROM eval_items WHERE finished_at IS NULL LIMIT 1"
        )
        return not open_rows and not self.requests_under_way and not self._more_from_outside()

    def _more_from_outside(self) -> bool:
        return any(moment.outside for moment in self.agenda)

    def event(self) -> bool:
        """One thing happens, of those that are due; if none is, time passes until one is.

        False if nothing will ever happen again.
        """
        awake = [replica for replica in self.replicas if replica.paused_until <= self.now]
        if self.have_heartbeats:
            for replica in awake:
                replica.heartbeat.turn()
            invariants.check_named(self, awake)
        due = self._due(awake)
        if not due:
            return self._pass_time(awake)
        moment = due[self.rng.randrange(len(due))] if len(due) > 1 else due[0]
        if moment is _TURN:
            self._turn(awake)
        else:
            (self.agenda if moment in self.agenda else self.messages).remove(moment)
            moment.act()
        self._maybe_look()
        self._after()
        return True

    def _maybe_look(self) -> None:
        """Somebody's watch reads the list, as it does now and then."""
        if faults.happens(self.rng, LOOKS):
            awake = [r for r in self.replicas if r.paused_until <= self.now and not r.dead]
            if awake:
                awake[self.rng.randrange(len(awake))].look()

    def _due(self, awake: list[Replica]) -> list[Moment]:
        now = self.now
        due = [
            m
            for m in self.agenda
            if m.at <= now and (m.replica is None or m.replica in awake or m.replica.dead)
        ]
        if awake:
            due += [message for message in self.messages if message.at <= now]
            if self._next_turn() <= now:
                due.append(_TURN)
        return due

    def _pass_time(self, awake: list[Replica]) -> bool:
        moments = [
            max(m.at, m.replica.paused_until) if m.replica and not m.replica.dead else m.at
            for m in self.agenda
        ]
        if awake:
            moments += [message.at for message in self.messages]
            moments.append(self._next_turn())
        moments += [r.paused_until for r in self.replicas if r.paused_until > self.now]
        following = min(moments, default=NEVER)
        if following < NEVER:
            self.now = max(self.now, following)
        return following < NEVER

    def _turn(self, awake: list[Replica]) -> None:
        self._turned_at, self._woken, self._seen_changes = self.now, False, -1
        replica = awake[self.rng.randrange(len(awake)) if len(awake) > 1 else 0]
        replica.turn()
        if replica.context.standby.stands_by():  # it changed nothing: time passes all the same
            self._seen_changes = self.raw.total_changes
            self._turn_wanted_at = self.now + TURN_SECONDS

    def wake(self) -> None:
        """A dispatcher was told that there may be something to plan."""
        self._woken, self._seen_changes = True, -1

    def turn_failed(self, seconds: float) -> None:
        self.at(seconds, self.wake)

    def _next_turn(self) -> float:
        """When a dispatcher's turn could change something; idle ones are skipped."""
        if self.raw.total_changes != self._seen_changes:
            self._seen_changes = self.raw.total_changes
            self._turn_wanted_at = self._wanted()
        return self._turn_wanted_at

    def _wanted(self) -> float:
        moments = []
        live = self.sql("SELECT due_at, nudged_at FROM eval_batches WHERE due_at IS NOT NULL")
        for due_at, nudged_at in live:
            overdue = seconds_of(due_at) + NUDGE_AFTER
            nudge = seconds_of(nudged_at) + NUDGE_AGAIN if nudged_at else 0.0
            moments.append(max(overdue, nudge) + A_MOMENT)
        ((due,),) = self.sql(f"SELECT min(due_at) FROM eval_jobs j WHERE NOT {PAUSED}")
        ((waiting,),) = self.sql(
            f"SELECT count(*) FROM eval_batches j WHERE state = 'planned' AND {PAUSED}"
        )
        if due is not None and len(live) - waiting < self.max_in_flight:
            # What was due, and was not planned, lingers, or waits for its inputs.
            soonest = 0.0 if self._woken else self._turned_at + TURN_SECONDS
            moments.append(max(seconds_of(due), soonest))
        if self.late_jobs and self.sql(
            "SELECT 1 FROM eval_items i JOIN eval_jobs j ON j.id = i.job_id"
            " WHERE i.status = 'pending' AND j.due_at IS NULL LIMIT 1"
        ):
            moments.append(max(self.now, self._turned_at + SWEEP_SECONDS))
        return min(moments, default=NEVER)

    def _somebody(self) -> Replica:
        awake = [replica for replica in self.replicas if replica.paused_until <= self.now]
        return awake[self.rng.randrange(len(awake)) if len(awake) > 1 else 0]

    def _after(self) -> None:
        """A process that died is replaced; one may fall asleep."""
        if self.strikes("pause"):
            self.put_to_sleep(self.replicas[self.rng.randrange(len(self.replicas))])
        if self.strikes("crash") and faults.happens(self.rng, 0.2):
            self.replicas[self.rng.randrange(len(self.replicas))].dead = True
        for number, replica in enumerate(self.replicas):
            if replica.dead:
                self.bury(replica)
                self.replicas[number] = Replica(self, number)

    def put_to_sleep(self, replica: Replica) -> None:
        replica.paused_until = self.now + self.rng.choice([5.0, 40.0, 120.0, 300.0])

    def bury(self, replica: Replica) -> None:
        for task in list(replica.tasks):
            task.kill()
        replica.tasks.clear()

    def close(self) -> None:
        """Whatever still waits is gone."""
        for replica in self.replicas:
            self.bury(replica)


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


_TURN = Moment(0.0, lambda: None, None)
