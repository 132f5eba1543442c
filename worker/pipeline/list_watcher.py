"""Watches all batches at the remote with one request: its list shows the status of each.

What the list says is a hint, and changes nothing but when a batch is read: one that has ended at
once, one that runs on later. Where there is no list, or nobody reads it, or it lies, each batch is
polled at its own time all the same. Of all replicas one reads at a time.

Most reads ask for completed batches alone, which are few pages. Now and then one asks for all: it
tells which run on, and which ended in another way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.domain.batch_result import is_running
from worker.domain.outcomes import (
    BatchExecution,
    Denied,
    Listed,
    ListOutcome,
    NotFound,
    Throttled,
    Unavailable,
)
from worker.domain.polling import Durations, quantile, watch_wait, worth_a_look_after
from worker.pipeline import gate_policy
from worker.pipeline.messages import Messages
from worker.remote import JudgeAPI
from worker.store import gates, list_watch
from worker.store.database import Database, Transaction

log = structlog.get_logger("evalworker")

IDLE_SECONDS = 1.0  # between two looks at the rows while there is nothing to watch
WATCHED_FROM = 3  # batches that may have ended; fewer are polled one by one
PAGE_SIZE = 100  # what the list is asked for; it may give less
MOST_ENDED = "completed"  # the status that most reads ask for
ALL_SECONDS = 10.0  # between two reads of batches in any status, while no other one ends them
LEASE_SECONDS = 5.0  # of one read; a second reader meanwhile costs its requests and nothing else
MAX_PAGES = 50
NO_LIST_SECONDS = 600.0  # before a server that had no list is asked again
TROUBLE_SECONDS = 10.0  # after a list that could not be read
TOLD_AGAIN_SECONDS = 15.0  # before a batch that was read, and had not ended, is believed to again
PUT_OFF_WITHIN = 20.0  # polls due before the next read of all are put off while a batch runs
PUT_OFF_BY = (25.0, 35.0)  # and scattered, so that they are no burst when nothing is read any more
TRUSTED_SECONDS = 60.0  # of a batch's life, or twice what is usual; then it is late
LATE_ONES = 50  # that the list is not asked for, but each polled: it may lie, and they be stuck
CLOCK_MARGIN = timedelta(minutes=2)  # between the database's clock and the remote's, unmeasured
MEASURED_MARGIN = timedelta(seconds=3)


Trouble = NotFound | Throttled | Denied | Unavailable


@dataclass(frozen=True, slots=True)
class Watched:
    """What one read of the list is for: batches that may have ended, by their remote ids."""

    batches: Mapping[str, Any]
    status: str | None  # that is asked for; None: all
    is_probe: bool  # of a gate that is closed: others wait for the answer
    count: int  # of all batches at the remote
    judge_id: str | None  # where all are of one
    moment: datetime  # of the claim
    since: datetime  # the first was sent, by the database's clock
    until: datetime  # the last was taken


@dataclass(frozen=True, slots=True)
class Seen:
    """What the list said of them, in how many pages; or why it said nothing."""

    executions: Mapping[str, BatchExecution]
    pages: int
    trouble: Trouble | None = None


class Watch:
    """The watch of one process; what it remembers only saves requests."""

    def __init__(
        self,
        database: Database,
        api: JudgeAPI,
        messages: Messages,
        durations: Durations,
        *,
        poll_max: float,
        batch_timeout: float,
        rng: Random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.api = api
        self.messages = messages
        self.durations = durations
        self.poll_max = poll_max
        self.batch_timeout = batch_timeout
        self.rng = rng
        self.monotonic = monotonic
        self.has_looked = threading.Event()  # once, or in vain: nobody need wait for it
        self._ahead: timedelta | None = None  # the remote's clock, of the database's
        self._all_at = monotonic()  # when the list is asked for all batches again
        self._filter_from = monotonic()  # when it may be asked for one status, if it refused that
        self._put_off: set[UUID] = set()  # batches whose polls wait because of the list
        self._told: dict[UUID, float] = {}  # batches that were said to have ended, and when
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Reads until stopped; trouble with the database is logged and waited out."""
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                pause = self.turn()
            except SQLAlchemyError as error:
                log.warning("watch.waits", reason=str(error).splitlines()[0])
                pause = TROUBLE_SECONDS

    def turn(self) -> float:
        """One read of the list, if one is due; returns seconds until the next turn."""
        try:
            return self._turn()
        finally:
            self.has_looked.set()

    def _turn(self) -> float:
        watched = self.database.run(self._claim)
        if watched is None:
            return IDLE_SECONDS
        seen = self._read(watched)
        wait, ended = self.database.run(lambda tx: self._record(tx, watched, seen))
        for batch_id in ended:
            self._told[batch_id] = self.monotonic()
            self.messages.poll(batch_id)
        return wait

    # --- claim -----------------------------------------------------------------------------------

    def _claim(self, tx: Transaction) -> Watched | None:
        rows = list_watch.at_remote(tx)
        status = self._status_to_ask_for()
        found = {row.remote_batch_id: row for row in self._worth_a_look(rows, status)}
        self._put_off &= {row.id for row in rows}
        enough = len(found) >= WATCHED_FROM or any(r.id in self._put_off for r in found.values())
        if not enough or gates.any_closed(tx, [gates.API]):
            return None
        if gates.closed(tx, [gates.STATUS]) is not None:
            return None
        is_first = not self.has_looked.is_set()
        if not list_watch.claim_watch(tx, lease=LEASE_SECONDS, at_once=is_first):
            return None
        judges = {row.judge_id for row in found.values()}
        return Watched(
            found,
            status=status,
            is_probe=gates.pass_through(tx, [gates.STATUS]),
            count=len(rows),
            moment=rows[0].moment,
            judge_id=judges.pop() if len(judges) == 1 else None,
            since=min(row.submitting_at for row in found.values()),
            until=max(row.submitted_at for row in found.values()),
        )

    def _worth_a_look(self, rows: Sequence[Any], status: str | None) -> Iterator[Any]:
        """Batches that may have ended, but for the oldest of those that are late.

        A single one that is stuck would have the list read from its day on, again and again. A
        read of all puts off polls, and so is for those too that may have ended before the next.
        """
        ahead = PUT_OFF_WITHIN if status is None else 0.0
        left_out = 0
        for row in sorted(rows, key=lambda row: row.submitted_at):
            durations = self.durations.of(row.judge_id)
            if left_out < LATE_ONES and self._is_late(row, durations):
                left_out += 1
            elif _age(row) + ahead >= worth_a_look_after(durations):
                yield row

    def _is_late(self, row: Any, durations: Sequence[float]) -> bool:
        usual = quantile(durations, 0.95) if durations else 0.0
        return _age(row) >= min(max(TRUSTED_SECONDS, 2 * usual), self.batch_timeout)

    def _status_to_ask_for(self) -> str | None:
        moment = self.monotonic()
        return None if moment >= self._all_at or moment < self._filter_from else MOST_ENDED

    # --- call ------------------------------------------------------------------------------------

    def _read(self, watched: Watched) -> Seen:
        """Page by page, until every batch was seen; of those in one status, until the last."""
        executions: dict[str, BatchExecution] = {}
        give_up_at = self.monotonic() + LEASE_SECONDS
        cursor, pages = None, 0
        while pages < MAX_PAGES and self.monotonic() < give_up_at:
            page = self._page(watched, cursor)
            pages += 1
            if not isinstance(page, Listed):
                return Seen(executions, pages, page)
            for row in page.executions:
                if row.batch_execution_id in watched.batches:
                    executions[row.batch_execution_id] = row
            cursor = page.next_cursor
            if cursor is None or len(executions) == len(watched.batches):
                break
        if watched.status is None:
            self._ahead = _clock_ahead(watched, executions)
            missed = any(_ended_otherwise(execution) for execution in executions.values())
            self._all_at = self.monotonic() + (0.0 if missed else ALL_SECONDS)
        return Seen(executions, pages)

    def _page(self, watched: Watched, cursor: str | None) -> ListOutcome:
        since, until = watched.since - CLOCK_MARGIN, None
        if self._ahead is not None:
            since = watched.since + self._ahead - MEASURED_MARGIN
            until = watched.until + self._ahead + MEASURED_MARGIN
        return self.api.list_executions(
            judge_id=watched.judge_id,
            status=watched.status,
            date_from=since,
            date_to=until,
            page_size=PAGE_SIZE,
            cursor=cursor,
        )

    # --- record ----------------------------------------------------------------------------------

    def _record(
        self, tx: Transaction, watched: Watched, seen: Seen
    ) -> tuple[float, Sequence[UUID]]:
        """Returns the seconds until the next read, and the batches that have ended."""
        ended, running = self._sorted(watched, seen)
        self._put_off |= set(running)
        waits = {batch_id: self.rng.uniform(*PUT_OFF_BY) for batch_id in running}
        now_due = list_watch.record_seen(tx, ended=ended, running=waits, within=PUT_OFF_WITHIN)
        wait = self._wait(tx, watched, seen)
        list_watch.watch_again(tx, wait=wait)
        return wait, now_due

    def _sorted(self, watched: Watched, seen: Seen) -> tuple[list[UUID], list[UUID]]:
        """Batches that have ended, for all that is known, and those whose polls can wait."""
        ended: list[UUID] = []
        running: list[UUID] = []
        now = self.monotonic()
        self._told = {b: at for b, at in self._told.items() if at > now - TOLD_AGAIN_SECONDS}
        for remote_id, execution in seen.executions.items():
            row = watched.batches[remote_id]
            (running if is_running(execution) else ended).append(row.id)
        return [batch_id for batch_id in ended if batch_id not in self._told], running

    def _wait(self, tx: Transaction, watched: Watched, seen: Seen) -> float:
        if watched.is_probe:
            self._answer_probe(tx, watched, seen.trouble)
        match seen.trouble:
            case None:
                return min(self._waits(watched, seen.pages))
            case Throttled() as outcome:
                return self._throttled(tx, watched, outcome)
            case NotFound(reason) if watched.status is not None:
                log.info("watch.without_filter", reason=reason)
                self._filter_from = self.monotonic() + NO_LIST_SECONDS
                return IDLE_SECONDS
            case NotFound(reason):
                log.info("watch.without_list", reason=reason)
                return NO_LIST_SECONDS
            case Denied(reason) | Unavailable(reason):
                log.info("watch.waits", reason=reason)
                return TROUBLE_SECONDS

    def _answer_probe(self, tx: Transaction, watched: Watched, trouble: Trouble | None) -> None:
        """Those who wait behind the gate go on; it stays closed where the answer told nothing."""
        match trouble:
            case None:
                gates.open_again(tx, [gates.STATUS], asked_at=watched.moment)
            case NotFound(reason) | Denied(reason) | Unavailable(reason):
                self._throttled(tx, watched, Throttled(reason))
            case Throttled():
                pass  # it stays closed for as long as that says

    def _throttled(self, tx: Transaction, watched: Watched, outcome: Throttled) -> float:
        return gate_policy.throttled(tx, outcome, gates.STATUS, watched.moment, self.rng)

    def _waits(self, watched: Watched, pages: int) -> Iterator[float]:
        """For each judge, by how long its batches usually take, or have taken so far."""
        oldest: dict[str, float] = {}
        for row in watched.batches.values():
            oldest[row.judge_id] = max(oldest.get(row.judge_id, 0.0), _age(row))
        for judge_id, age in oldest.items():
            durations = self.durations.of(judge_id)
            yield watch_wait(durations, age, watched.count, pages, most=self.poll_max)


def _ended_otherwise(execution: BatchExecution) -> bool:
    return not is_running(execution) and execution.status != MOST_ENDED


def _age(row: Any) -> float:
    seconds: float = (row.moment - row.submitted_at).total_seconds()
    return seconds


def _clock_ahead(watched: Watched, seen: Mapping[str, BatchExecution]) -> timedelta | None:
    """By how much the remote's clock is ahead: it made each batch just after we began to submit it.

    None, and so a wide margin, where nothing was seen to measure it by.
    """
    measured = [
        execution.created_at - watched.batches[remote_id].submitting_at
        for remote_id, execution in seen.items()
        if execution.created_at is not None
    ]
    return min(measured, default=None)
