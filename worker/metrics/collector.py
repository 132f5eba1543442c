"""What stands in the tables, asked for when somebody scrapes.

A scrape never waits long, nor fails, for the database: the tables are looked at in a thread of
their own, one look at a time, and a look is good for a while. The more it cost, the longer: where
a million items wait, watching them still takes a twentieth of one connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from worker.domain.lifecycle import LIVE_STATES, BatchState
from worker.metrics import definitions
from worker.metrics.counters import scope_of
from worker.metrics.definitions import Metric
from worker.store import concurrency_limit, metric_queries
from worker.store.database import Database

GOOD_SECONDS = 5.0  # for which a look is good, at least
GOOD_TIMES = 20  # and as many times as long as it took
PATIENCE_SECONDS = 5.0  # of a scrape; Prometheus itself waits for ten
HUNG_SECONDS = 60.0  # a look that takes longer is none; until then the one before it stands
MAX_LABEL = 200  # characters of a judge's id: plain SQL may have written any text

STATES = tuple(sorted([*LIVE_STATES, BatchState.HELD]))
SCOPES = ("api", "api:submit", "api:status", "judge", "pause")
SHOWN = (
    definitions.ITEMS_WAITING,
    definitions.OLDEST_WAITING,
    definitions.BATCHES,
    definitions.OLDEST_BATCH,
    definitions.GATES_CLOSED,
    definitions.IN_FLIGHT_LIMIT,
)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found: figures by metric and label, "" where it has none."""

    figures: Mapping[Metric, Mapping[str, float]]


class TablesCollector(Collector):
    """Gauges of the database, and whether it answered."""

    def __init__(
        self,
        database: Database,
        *,
        max_in_flight: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._max_in_flight = max_in_flight
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._look: Look | None = None  # of a database that does not answer, there is none
        self._good_until = float("-inf")
        self._looking: threading.Event | None = None  # set at the end of the look under way
        self._began = 0.0

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Without a look: the registry asks for names when the process starts."""
        return [_family(metric) for metric in (definitions.DATABASE_UP, *SHOWN)]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        look = self._latest()
        up = _family(definitions.DATABASE_UP)
        up.add_metric([], 0.0 if look is None else 1.0)
        yield up
        for metric in SHOWN:
            family = _family(metric)
            for label, figure in (look.figures[metric] if look else {}).items():
                family.add_metric([label] if metric.labels else [], figure)
            yield family

    def _latest(self) -> Look | None:
        with self._lock:
            if self._looking is None and self._monotonic() >= self._good_until:
                self._looking, self._began = threading.Event(), self._monotonic()
                threading.Thread(
                    target=self._take, args=[self._looking], name="tables", daemon=True
                ).start()
            looking = self._looking
        if looking is not None:
            looking.wait(PATIENCE_SECONDS)
        with self._lock:
            hung = self._looking is not None and self._monotonic() - self._began > HUNG_SECONDS
            return None if hung else self._look

    def _take(self, done: threading.Event) -> None:
        look: Look | None = None
        try:
            look = look_at(self._database, self._max_in_flight)
        except SQLAlchemyError:
            pass  # away: the scrape says so
        finally:
            with self._lock:
                ended = self._monotonic()
                self._look, self._looking = look, None
                self._good_until = ended + max(GOOD_SECONDS, GOOD_TIMES * (ended - self._began))
            done.set()


def look_at(database: Database, max_in_flight: int) -> Look:
    with database.read() as connection:
        metric_queries.bound(connection, seconds=HUNG_SECONDS)
        waiting = metric_queries.waiting_by_judge(connection)
        due = metric_queries.due_by_judge(connection)
        batches = metric_queries.batches_by_state(connection)
        closed = metric_queries.closed_scopes(connection)
        allowed = concurrency_limit.allowed_in_flight(connection, max_in_flight)
    counts = dict.fromkeys(STATES, 0.0) | {row.state: float(row.batches) for row in batches}
    ages = {row.state: max(0.0, row.oldest or 0.0) for row in batches}
    gates = dict.fromkeys(SCOPES, 0.0)
    for scope in closed:
        gates[scope_of(scope)] += 1
    by_judge = _by_judge((judge, n, due.get(judge, 0.0)) for judge, n in waiting.items())
    return Look(
        {
            definitions.ITEMS_WAITING: {
                judge: float(count) for judge, (count, _) in by_judge.items()
            },
            definitions.OLDEST_WAITING: {judge: oldest for judge, (_, oldest) in by_judge.items()},
            definitions.BATCHES: counts,
            definitions.OLDEST_BATCH: ages,
            definitions.GATES_CLOSED: gates,
            definitions.IN_FLIGHT_LIMIT: {"": float(allowed)},
        }
    )


def _by_judge(rows: Iterable[tuple[str, int, float]]) -> dict[str, tuple[int, float]]:
    """The judges with the most waiting, and all others as one."""
    found: dict[str, tuple[int, float]] = {}
    waiting = sorted((row for row in rows if row[1] > 0), key=lambda row: (-row[1], row[0]))
    for place, (judge, count, oldest) in enumerate(waiting):
        label = judge[:MAX_LABEL] if place < definitions.MAX_JUDGES else definitions.OTHER
        count_before, oldest_before = found.get(label, (0, 0.0))
        found[label] = (count_before + count, max(oldest_before, oldest))
    return found


def _family(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.documentation, labels=metric.labels)
