"""What Prometheus scrapes: one registry per process, nothing at import.

names    every metric: its name, its labels, what it tells
process  what this process did, counted after each commit
tables   what stands in the database, looked at when somebody scrapes
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder
from sqlalchemy.pool import QueuePool

from worker import __version__
from worker.metrics import definitions
from worker.metrics.collector import TablesCollector
from worker.metrics.counters import ProcessMetrics
from worker.metrics.definitions import Metric
from worker.store.database import Database


class Metrics(ProcessMetrics):
    """Of one process; what it is to watch is told to it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        super().__init__(self.registry)
        ProcessCollector(registry=self.registry)
        self._gauge(definitions.BUILD).labels(__version__).set(1)

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """All of it, in the format that a scraper asks for by `Accept`; and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def watch_database(self, database: Database, *, max_in_flight: int) -> None:
        """Its tables, its pool, and every event from here on."""
        self.registry.register(TablesCollector(database, max_in_flight=max_in_flight))
        database.observe(self.on_event)
        pool = database.engine.pool
        if isinstance(pool, QueuePool):
            connections = self._gauge(definitions.POOL)
            connections.labels("in_use").set_function(pool.checkedout)
            connections.labels("idle").set_function(pool.checkedin)
            # The other half of the limit SQLAlchemy keeps to itself.
            self._gauge(definitions.POOL_LIMIT).set(pool.size() + max(0, pool._max_overflow))

    def watch_dispatcher(self, turn_age: Callable[[], float]) -> None:
        """Where there is one: `turn_age` in seconds."""
        self._gauge(definitions.TURN_AGE).set_function(turn_age)

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.documentation, metric.labels, registry=self.registry)
