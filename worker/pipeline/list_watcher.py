"""Watch all batches at the remote with one request: its list shows the status of each.

What the list says is a hint, and changes only when a batch is read: an ended one now, a running one
later. Where there is no list, or nobody reads it, or it is wrong, each batch is polled at its own
time all the same. One replica reads at a time.

Most reads ask for completed batches only, which are few pages. Now and then, and whenever a batch
that no read has asked about yet would be polled soon, a read asks for every status: it shows which
batches are still running, and which ended in another way.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from worker.domain.batch_result import is_running
from worker.domain.outcomes import BatchExecution, Denied, Listed, NotFound, Throttled, Unavailable
from worker.domain.polling import earliest_end, list_wait, quantile
from worker.pipeline import gate_policy
from worker.pipeline.context import StepContext
from worker.pipeline.loop_errors import LoopErrors
from worker.remote.pagination import Incomplete, list_pages
from worker.store import gates, list_watch
from worker.store.list_watch import BatchAtRemote
from worker.store.transaction import Transaction

log = structlog.get_logger("evalworker")

IDLE_SECONDS = 1.0  # between two turns while there is nothing to read
MIN_BATCHES = 3  # batches that may have ended; fewer are polled one by one
PAGE_SIZE = 100  # what the list is asked for; it may give less
USUAL_END = "completed"  # the status that most reads ask for
FULL_READ_SECONDS = 10.0  # between two reads of every status
LEASE_SECONDS = 5.0  # of one read; a second reader in that time costs its requests and nothing else
MAX_PAGES = 50
NO_LIST_SECONDS = 600.0  # before a server that had no list is asked again
TROUBLE_SECONDS = 10.0  # after a list that could not be read
BELIEVE_AGAIN_SECONDS = 15.0  # before a batch that was read, and had not ended, is believed again
SOON_SECONDS = 0.5  # added to the time between two reads: polls before that are worth a full read
DEFER_WITHIN = 20.0  # polls due within this time are deferred while the list shows a batch running
DEFER_BY = (25.0, 35.0)  # seconds, scattered: no burst of polls when the list is read no more
TRUSTED_SECONDS = 60.0  # a batch is late after this time, or twice the usual duration
MAX_LATE = 50  # late batches that are only polled: the list may be wrong, or they are stuck
CLOCK_MARGIN = timedelta(minutes=2)  # between the database's clock and the remote's, unmeasured
MEASURED_MARGIN = timedelta(seconds=3)
MOST_AHEAD = timedelta(days=1)  # beyond it, `created_at` is no time, such as the year 1


Failure = NotFound | Throttled | Denied | Unavailable


@dataclass(frozen=True, slots=True)
class ListRead:
    """One read of the list: the batches that may have ended, by their remote ids."""

    batches: Mapping[str, BatchAtRemote]
    status: str | None  # that is asked for; None: every status
    is_probe: bool  # of a closed gate: others wait for the response
    in_flight: int  # batches at the remote that nobody is reading now
    judge_id: str | None  # where all batches have the same
    claimed_at: datetime
    since: datetime  # the first of them was sent, by the database's clock
    until: datetime  # the last of them was accepted


@dataclass(frozen=True, slots=True)
class ListSnapshot:
    """What the list said of these batches, in how many pages; or why it said nothing."""

    executions: Mapping[str, BatchExecution]
    pages: int
    failure: Failure | None = None


class ListWatcher:
    """The list watcher of one process; what it remembers only saves requests."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.has_read = threading.Event()  # once, or in vain: nobody need wait for it
        self._clock_ahead: timedelta | None = None  # the remote's clock, of the database's
        self._full_read_at = context.monotonic()
        self._filter_from = context.monotonic()  # a server that refused the filter is retried
        self._wait = IDLE_SECONDS  # between the last read and the next
        self._asked_about: set[UUID] = set()  # batches that the last read of every status included
        self._deferred: set[UUID] = set()  # batches whose polls wait because of the list
        self._believed: dict[UUID, float] = {}  # batches said to have ended, and when
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Read until stopped; errors are logged and waited out."""
        outages = self.context.database.outages
        errors = LoopErrors("list_watcher", outages, monotonic=self.context.monotonic)
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                pause = self.turn()
            except Exception as error:  # noqa: BLE001 (the thread must go on)
                errors.report(error)
                pause = TROUBLE_SECONDS

    def turn(self) -> float:
        """Read the list once, if that is due; returns the seconds until the next turn."""
        try:
            return self._turn()
        finally:
            self.has_read.set()

    def _turn(self) -> float:
        if self.context.standby.stands_by():
            return IDLE_SECONDS
        read = self.context.database.run(self._claim)
        if read is None:
            return IDLE_SECONDS
        snapshot = self._call(read)
        wait, ended = self.context.database.run(lambda tx: self._record(tx, read, snapshot))
        for batch_id in ended:
            self._believed[batch_id] = self.context.monotonic()
            self.context.messages.poll(batch_id)
        return wait

    # --- claim -----------------------------------------------------------------------------------

    def _claim(self, tx: Transaction) -> ListRead | None:
        rows = list_watch.batches_at_remote(tx)
        status = self._status_to_ask_for(rows)
        found = {row.remote_batch_id: row for row in self._may_have_ended(rows, status)}
        self._deferred &= {row.id for row in rows}
        is_worth_it = len(found) >= MIN_BATCHES or any(
            row.id in self._deferred for row in found.values()
        )
        if not is_worth_it or gates.is_any_closed(tx, [gates.API]):
            return None
        if gates.find_closed(tx, [gates.STATUS]) is not None:
            return None
        is_first = not self.has_read.is_set()
        if not list_watch.claim_read(tx, lease=LEASE_SECONDS, immediately=is_first):
            return None
        if status is None:
            self._asked_about = {row.id for row in found.values()}
        judges = {row.judge_id for row in found.values()}
        return ListRead(
            found,
            status=status,
            is_probe=gates.start_probe(tx, [gates.STATUS]),
            in_flight=len(rows),
            judge_id=judges.pop() if len(judges) == 1 else None,
            claimed_at=rows[0].now,
            since=min(row.submitting_at for row in found.values()),
            until=max(row.submitted_at for row in found.values()),
        )

    def _may_have_ended(
        self, rows: Sequence[BatchAtRemote], status: str | None
    ) -> Iterator[BatchAtRemote]:
        """Select batches that may have ended, except the oldest of those that are late.

        One stuck batch would otherwise have the list read from its day on, again and again. A full
        read also defers polls, so it includes batches that may end before the next one.
        """
        ahead = DEFER_WITHIN if status is None else 0.0
        late = 0
        for row in sorted(rows, key=lambda row: row.submitted_at):
            durations = self.context.durations.of(row.judge_id)
            if late < MAX_LATE and self._is_late(row, durations):
                late += 1
            elif row.age + ahead >= earliest_end(durations):
                yield row

    def _is_late(self, row: BatchAtRemote, durations: Sequence[float]) -> bool:
        usual = quantile(durations, 0.95) if durations else 0.0
        return row.age >= min(max(TRUSTED_SECONDS, 2 * usual), self.context.policy.batch_timeout)

    def _status_to_ask_for(self, rows: Sequence[BatchAtRemote]) -> str | None:
        now, soon = self.context.monotonic(), self._wait + SOON_SECONDS
        if now >= self._full_read_at or now < self._filter_from:
            return None
        new = (row for row in self._may_have_ended(rows, None) if row.id not in self._asked_about)
        return None if any(row.due_in < soon for row in new) else USUAL_END

    # --- call ------------------------------------------------------------------------------------

    def _call(self, read: ListRead) -> ListSnapshot:
        """Read page by page until every batch was seen; of one status, until the last page."""
        executions: dict[str, BatchExecution] = {}
        pages = 0
        for page in self._pages(read):
            match page:
                case Incomplete():
                    break
                case Listed():
                    pages += 1
                    for row in page.executions:
                        if row.batch_execution_id in read.batches:
                            executions[row.batch_execution_id] = row
                    if len(executions) == len(read.batches):
                        break
                case failure:
                    return ListSnapshot(executions, pages + 1, failure)
        if read.status is None:
            self._clock_ahead = _clock_ahead(read, executions)
            missed = any(_ended_otherwise(execution) for execution in executions.values())
            self._full_read_at = self.context.monotonic() + (0.0 if missed else FULL_READ_SECONDS)
        return ListSnapshot(executions, pages)

    def _pages(self, read: ListRead) -> Iterator[Listed | Failure | Incomplete]:
        since, until = read.since - CLOCK_MARGIN, None
        if self._clock_ahead is not None:
            since = read.since + self._clock_ahead - MEASURED_MARGIN
            until = read.until + self._clock_ahead + MEASURED_MARGIN
        return list_pages(
            lambda cursor: self.context.api.list_executions(
                judge_id=read.judge_id,
                status=read.status,
                date_from=since,
                date_to=until,
                page_size=PAGE_SIZE,
                cursor=cursor,
            ),
            max_pages=MAX_PAGES,
            max_seconds=LEASE_SECONDS,
            monotonic=self.context.monotonic,
        )

    # --- record ----------------------------------------------------------------------------------

    def _record(
        self, tx: Transaction, read: ListRead, snapshot: ListSnapshot
    ) -> tuple[float, Sequence[UUID]]:
        """Record when batches are read; returns the seconds until the next read, and the ended."""
        ended, running = self._sort(read, snapshot)
        self._deferred |= set(running)
        waits = {batch_id: self.context.rng.uniform(*DEFER_BY) for batch_id in running}
        now_due = list_watch.record_snapshot(tx, ended=ended, running=waits, within=DEFER_WITHIN)
        wait = self._wait = self._record_outcome(tx, read, snapshot)
        list_watch.schedule_read(tx, wait=wait)
        return wait, now_due

    def _sort(self, read: ListRead, snapshot: ListSnapshot) -> tuple[list[UUID], list[UUID]]:
        """Return the batches that seem to have ended, and those that are running."""
        ended: list[UUID] = []
        running: list[UUID] = []
        now = self.context.monotonic()
        self._believed = {
            batch_id: at
            for batch_id, at in self._believed.items()
            if at > now - BELIEVE_AGAIN_SECONDS
        }
        for remote_id, execution in snapshot.executions.items():
            row = read.batches[remote_id]
            (running if is_running(execution) else ended).append(row.id)
        return [batch_id for batch_id in ended if batch_id not in self._believed], running

    def _record_outcome(self, tx: Transaction, read: ListRead, snapshot: ListSnapshot) -> float:
        """Open or close gates by the outcome; returns the seconds until the next read."""
        if read.is_probe:
            self._record_probe(tx, read, snapshot.failure)
        match snapshot.failure:
            case None:
                return min(self._waits(read, snapshot.pages))
            case Throttled() as outcome:
                return self._record_throttle(tx, read, outcome)
            case NotFound(reason) if read.status is not None:
                log.info("list_watcher.filter_unsupported", reason=reason)
                self._filter_from = self.context.monotonic() + NO_LIST_SECONDS
                return IDLE_SECONDS
            case NotFound(reason):
                log.info("list_watcher.list_unsupported", reason=reason)
                return NO_LIST_SECONDS
            case Denied(reason) | Unavailable(reason):
                log.info("list_watcher.list_unavailable", reason=reason)
                return TROUBLE_SECONDS

    def _record_probe(self, tx: Transaction, read: ListRead, failure: Failure | None) -> None:
        """Open the gate if the probe succeeded; it stays closed where the response says nothing."""
        match failure:
            case None:
                gates.open_gates(tx, [gates.STATUS], sent_at=read.claimed_at)
            case NotFound(reason) | Denied(reason) | Unavailable(reason):
                self._record_throttle(tx, read, Throttled(reason))
            case Throttled():
                pass  # the caller closes it for as long as the response says

    def _record_throttle(self, tx: Transaction, read: ListRead, outcome: Throttled) -> float:
        return gate_policy.record_throttle(
            tx, outcome, gates.STATUS, read.claimed_at, self.context.rng
        )

    def _waits(self, read: ListRead, pages: int) -> Iterator[float]:
        """Yield a wait for each judge, by how long its batches usually take, or took so far."""
        oldest: dict[str, float] = {}
        for row in read.batches.values():
            oldest[row.judge_id] = max(oldest.get(row.judge_id, 0.0), row.age)
        for judge_id, age in oldest.items():
            durations = self.context.durations.of(judge_id)
            yield list_wait(
                durations, age, read.in_flight, pages, maximum=self.context.policy.poll_max
            )


def _ended_otherwise(execution: BatchExecution) -> bool:
    return not is_running(execution) and execution.status != USUAL_END


def _clock_ahead(read: ListRead, executions: Mapping[str, BatchExecution]) -> timedelta | None:
    """Measure how far the remote's clock is ahead: it created each batch just after our attempt.

    None, which means a wide margin, where there is nothing to measure it by.
    """
    measured = [
        execution.created_at - read.batches[remote_id].submitting_at
        for remote_id, execution in executions.items()
        if execution.created_at is not None
    ]
    believed = [ahead for ahead in measured if abs(ahead) < MOST_AHEAD]
    return min(believed, default=None)
