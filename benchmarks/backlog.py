"""The cost of an input while many others wait, which must not depend on how many wait."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import running_fake_judge
from benchmarks.measurement import Curve, Figure, migrated_postgresql
from benchmarks.resource_usage import cpu_seconds
from benchmarks.worker_process import (
    delete_all,
    environment,
    insert_job,
    open_database,
    rows,
    running_workers,
    wait_for,
)

if TYPE_CHECKING:
    from benchmarks.fake_judge_server import Remote
    from tests.support.servers import PostgresServer

SIZES = (10_000, 100_000, 1_000_000)
WARM_UP = 20  # batches until all statements are prepared and all connections are open
BATCHES = 200  # measured
IN_FLIGHT = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """What one input costs."""

    elapsed: float  # seconds
    processor: float  # seconds, of worker and PostgreSQL


def figures(share: float) -> list[Figure]:
    with migrated_postgresql() as server, running_fake_judge() as remote:
        costs = {
            size: _cost(server, remote, size, max(5, int(BATCHES * share)))
            for size in (int(size * share) for size in SIZES)
        }
    few, many = min(costs), max(costs)
    curve = Curve(
        "an input through the worker, by inputs waiting",
        {size: cost.processor for size, cost in costs.items()},
    )
    return [
        Figure(
            f"processor time of an input through the whole worker, {many:,} inputs waiting",
            compared_with=f"{few:,} waiting",
            value=costs[many].processor / costs[few].processor,
            target=1.2,
            at_most=True,
            detail=f"worker and PostgreSQL: {costs[many].processor * 1e3:.2f} ms",
            curve=curve,
        ),
        Figure(
            "the same, elapsed time",
            compared_with=f"{few:,} waiting",
            value=costs[many].elapsed / costs[few].elapsed,
            target=1.2,
            at_most=True,
            detail=f"{costs[many].elapsed * 1e3:.2f} ms",
        ),
    ]


def _cost(server: PostgresServer, remote: Remote, size: int, batches: int) -> Cost:
    """Measure so many batches while at least `size` inputs wait."""
    with open_database(server.url()) as database:
        delete_all(database)
        insert_job(database, size + (WARM_UP + batches + 2 * IN_FLIGHT) * 100)
        server.execute("VACUUM ANALYZE")
        server.execute("CHECKPOINT")

        def finished() -> int:
            query = "SELECT count(*) FROM eval_batches WHERE state = 'finished'"
            return int(rows(database, query)[0][0])

        with running_workers(environment(server.url(), remote, max_in_flight=IN_FLIGHT)) as workers:
            wait_for(lambda: finished() >= WARM_UP)
            pids = server.pid(), workers.processes[0].pid
            began, done = time.perf_counter(), finished()
            spent = -sum(map(cpu_seconds, pids))
            wait_for(lambda: finished() >= done + batches)
            took, inputs = time.perf_counter() - began, (finished() - done) * 100
            spent += sum(map(cpu_seconds, pids))
    return Cost(elapsed=took / inputs, processor=spent / inputs)
