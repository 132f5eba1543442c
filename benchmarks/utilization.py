"""How full batches are, and how many of the allowed ones are in flight."""

from __future__ import annotations

import time

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import (
    Figure,
    inputs_of,
    mean_running,
    migrated_postgresql,
    requests_per_batch,
)
from benchmarks.worker_process import (
    delete_all,
    environment,
    open_database,
    running_workers,
    wait_for,
)
from worker import enqueue

JOBS = 100_000
JUDGES = 5
IN_FLIGHT = 50
LATENCY = (2.0, 4.0)
SECONDS = 60.0


def figures(share: float) -> list[Figure]:
    with migrated_postgresql() as server:
        return [
            _fill(server.url(), int(JOBS * share)),
            _use(server.url(), max(LATENCY[1], SECONDS * share)),
        ]


def _fill(url: str, jobs: int) -> Figure:
    with running_fake_judge() as remote, open_database(url) as database:
        delete_all(database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "WITH made AS (INSERT INTO eval_jobs (judge_id)"
                f" SELECT 'judge ' || mod(n, {JUDGES}) FROM generate_series(1, {jobs}) n"
                " RETURNING id)"
                " INSERT INTO eval_items (job_id, item_index, request, response)"
                " SELECT id, 0, 'a question', 'an answer' FROM made"
            )
        began = time.monotonic()
        with running_workers(environment(url, remote, linger_seconds=2), drain=True) as workers:
            workers.wait()
        took = time.monotonic() - began
        sizes = remote.observations().sizes
    return Figure(
        f"inputs in a batch, {jobs:,} jobs of one input each, {JUDGES} judges",
        compared_with="100",
        value=sum(sizes) / len(sizes),
        target=95,
        detail=f"{jobs / took:,.0f} jobs/s",
    )


def _use(url: str, seconds: float) -> Figure:
    """With enough work, the mean number in flight is the limit (Little's law, 1961)."""
    with running_fake_judge(Options(latency=LATENCY)) as remote, open_database(url) as database:
        delete_all(database)
        batches = int(seconds / 3 * IN_FLIGHT) + 3 * IN_FLIGHT
        with database.engine.begin() as connection:
            enqueue(connection, judge_id="judge", inputs=inputs_of(batches * 100))
        with running_workers(environment(url, remote, max_in_flight=IN_FLIGHT)):
            wait_for(lambda: remote.observations().batches >= IN_FLIGHT)
            began, before = time.time(), remote.observations()
            time.sleep(seconds)
            observed, until = remote.observations(), time.time()
    low, high = LATENCY
    return Figure(
        f"batches at the remote, latency {low:g} to {high:g} s, `MAX_IN_FLIGHT` {IN_FLIGHT}",
        compared_with=f"{IN_FLIGHT} at all times",
        value=mean_running(observed, began, until) / IN_FLIGHT,
        target=0.95,
        detail=f"{sum(requests_per_batch(before, observed).values()):.1f} requests a batch",
    )
