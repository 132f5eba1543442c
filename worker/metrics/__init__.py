"""Expose metrics to Prometheus: one registry per process, created by `Metrics`.

definitions  every metric: its name, labels and help text
counters     what this process did, counted after each commit
collector    what the database holds, read when Prometheus scrapes
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from worker import __version__
from worker.metrics import definitions
from worker.metrics.collector import DatabaseCollector
from worker.metrics.counters import Counters
from worker.metrics.definitions import Metric
from worker.store.database import Database
from worker.store.engines import max_connections


class Metrics(Counters):
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        super().__init__(self.registry)
        ProcessCollector(registry=self.registry)
        self._gauge(definitions.BUILD).labels(__version__).set(1)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that the `Accept` header asks for, and its type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def register_database(self, database: Database, *, max_in_flight: int) -> None:
        """Export what the database holds and its pool, and count its events from now on."""
        self.registry.register(DatabaseCollector(database, max_in_flight=max_in_flight))
        database.observe(self.on_event)
        pooler = self._gauge(definitions.POOLER)
        with contextlib.suppress(SQLAlchemyError):  # metrics are there without the database, too
            pooler.labels(database.pool_mode or "none").set(1)
        pool = database.engine.pool
        if isinstance(pool, QueuePool):
            connections = self._gauge(definitions.POOL)
            connections.labels("in_use").set_function(pool.checkedout)
            connections.labels("idle").set_function(pool.checkedin)
            self._gauge(definitions.POOL_LIMIT).set(max_connections(pool))

    def register_dispatcher(self, turn_age: Callable[[], float]) -> None:
        """Export how many seconds ago the dispatcher last read the tables."""
        self._gauge(definitions.TURN_AGE).set_function(turn_age)

    def register_replica(
        self, *, key_refused: Callable[[], bool], sends_fail: Callable[[], bool]
    ) -> None:
        """Export whether the API refuses this process's key, and the broker its messages."""
        self._gauge(definitions.KEY_REFUSED).set_function(lambda: float(key_refused()))
        self._gauge(definitions.SENDS_FAIL).set_function(lambda: float(sends_fail()))

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.documentation, metric.labels, registry=self.registry)
