"""Collect gauges of what the database holds, when Prometheus scrapes.

A scrape neither waits long nor fails because of the database. One thread at a time reads a
snapshot, which is served until it expires. The longer it took, the longer it is served: even with
a million items waiting, one connection is busy for a twentieth of the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from worker.domain.lifecycle import LIVE_STATES, BatchState
from worker.metrics import definitions
from worker.metrics.counters import scope_label
from worker.metrics.definitions import Metric
from worker.store import batch_queries, concurrency_limit, metric_queries, pauses
from worker.store.database import Database

MIN_CACHE_SECONDS = 5.0
CACHE_FACTOR = 20  # a snapshot is served for this many times as long as reading it took
SCRAPE_TIMEOUT_SECONDS = 5.0  # Prometheus gives up after ten
SNAPSHOT_TIMEOUT_SECONDS = 60.0  # until then, the previous snapshot is served
MAX_LABEL_LENGTH = 200  # plain SQL may have written a judge id of any length

STATES = tuple(sorted([*LIVE_STATES, BatchState.HELD]))
SCOPES = ("api", "api:submit", "api:status", "judge", "pause")
DATABASE_METRICS = (
    definitions.ITEMS_WAITING,
    definitions.OLDEST_WAITING,
    definitions.BATCHES,
    definitions.OLDEST_BATCH,
    definitions.GATES_CLOSED,
    definitions.IN_FLIGHT_LIMIT,
)


class DatabaseCollector(Collector):
    """Exports the gauges of the database, and whether it answered."""

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
        self._snapshot: list[GaugeMetricFamily] | None = None  # None: the database did not answer
        self._expires = float("-inf")
        self._reading: threading.Event | None = None  # set when the read under way has ended
        self._began = 0.0

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the names without a query: the registry asks for them when the process starts."""
        return [_family(metric) for metric in (definitions.DATABASE_UP, *DATABASE_METRICS)]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        snapshot = self._latest()
        yield _family(definitions.DATABASE_UP, {"": 0.0 if snapshot is None else 1.0})
        yield from map(_family, DATABASE_METRICS) if snapshot is None else snapshot

    def _latest(self) -> list[GaugeMetricFamily] | None:
        with self._lock:
            if self._reading is None and self._monotonic() >= self._expires:
                self._reading, self._began = threading.Event(), self._monotonic()
                threading.Thread(
                    target=self._read, args=[self._reading], name="metrics", daemon=True
                ).start()
            reading = self._reading
        if reading is not None:
            reading.wait(SCRAPE_TIMEOUT_SECONDS)
        with self._lock:
            hangs = (
                self._reading is not None
                and self._monotonic() - self._began > SNAPSHOT_TIMEOUT_SECONDS
            )
            return None if hangs else self._snapshot

    def _read(self, done: threading.Event) -> None:
        snapshot = None
        try:
            snapshot = read_snapshot(self._database, self._max_in_flight)
        except SQLAlchemyError:
            pass  # the gauge `evalworker_database_up` says so
        finally:
            with self._lock:
                ended = self._monotonic()
                self._snapshot, self._reading = snapshot, None
                self._expires = ended + max(MIN_CACHE_SECONDS, CACHE_FACTOR * (ended - self._began))
            done.set()


def read_snapshot(database: Database, max_in_flight: int) -> list[GaugeMetricFamily]:
    """Read all gauges of the database in one transaction."""
    with database.read() as connection:
        metric_queries.limit_duration(connection, seconds=SNAPSHOT_TIMEOUT_SECONDS)
        waiting = metric_queries.waiting_by_judge(connection)
        due = metric_queries.due_by_judge(connection)
        batches = batch_queries.open_batch_counts(connection)
        closed = metric_queries.closed_scopes(connection)
        paused = pauses.list_pauses(connection)
        allowed = concurrency_limit.allowed_in_flight(connection, max_in_flight)
    counts: dict[str, float] = dict.fromkeys(STATES, 0.0)
    ages: dict[str, float] = {}
    for row in batches:
        counts[row.state] += row.batches
        ages[row.state] = max(ages.get(row.state, 0.0), row.oldest or 0.0)
    gates = dict.fromkeys(SCOPES, 0.0)
    for scope in closed:
        gates[scope_label(scope)] += 1
    gates["pause"] += len(paused)
    judges = top_judges((judge, n, due.get(judge, 0.0)) for judge, n in waiting.items())
    return [
        _family(definitions.ITEMS_WAITING, {judge: float(n) for judge, (n, _) in judges.items()}),
        _family(definitions.OLDEST_WAITING, {judge: age for judge, (_, age) in judges.items()}),
        _family(definitions.BATCHES, counts),
        _family(definitions.OLDEST_BATCH, ages),
        _family(definitions.GATES_CLOSED, gates),
        _family(definitions.IN_FLIGHT_LIMIT, {"": float(allowed)}),
    ]


def top_judges(rows: Iterable[tuple[str, int, float]]) -> dict[str, tuple[int, float]]:
    """Map the judges with the most waiting items to (items, seconds), and the others as one.

    Each row is a judge's id, its waiting items, and for how many seconds the oldest has been due.
    """
    found: dict[str, tuple[int, float]] = {}
    waiting = sorted((row for row in rows if row[1] > 0), key=lambda row: (-row[1], row[0]))
    for rank, (judge, count, age) in enumerate(waiting):
        label = judge[:MAX_LABEL_LENGTH] if rank < definitions.MAX_JUDGES else definitions.OTHER
        count_before, age_before = found.get(label, (0, 0.0))
        found[label] = (count_before + count, max(age_before, age))
    return found


def _family(metric: Metric, values: Mapping[str, float] | None = None) -> GaugeMetricFamily:
    """Return the gauge with a sample for each value of its label, "" where it has none."""
    family = GaugeMetricFamily(metric.name, metric.documentation, labels=metric.labels)
    for label, value in (values or {}).items():
        family.add_metric([label] if metric.labels else [], value)
    return family
