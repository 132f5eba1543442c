"""How full batches are, and how much of what is allowed is in use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.measure import Figure, fresh_databases, inputs_of
from benchmarks.remote import Options, standing_in
from benchmarks.working import empty, environment, looking_into, rows, running, wait_for
from worker import enqueue

if TYPE_CHECKING:
    from benchmarks.remote import Account

JOBS = 100_000
JUDGES = 5
IN_FLIGHT = 50
SECONDS = 60.0


def figures() -> list[Figure]:
    with fresh_databases() as (postgresql, _):
        return [_fill(postgresql), _use(postgresql)]


def _fill(url: str) -> Figure:
    with standing_in() as remote, looking_into(url) as database:
        empty(database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "WITH made AS (INSERT INTO eval_jobs (judge_id)"
                f" SELECT 'judge ' || mod(n, {JUDGES}) FROM generate_series(1, {JOBS}) n"
                " RETURNING id)"
                " INSERT INTO eval_items (job_id, item_index, request, response)"
                " SELECT id, 0, 'a question', 'an answer' FROM made"
            )
        began = time.monotonic()
        with running(environment(url, remote, linger_seconds=2), drain=True) as workers:
            workers.wait()
        took = time.monotonic() - began
        sizes = remote.account().sizes
    return Figure(
        f"inputs in a batch, {JOBS:,} jobs of one input each, {JUDGES} judges",
        compared_with="100",
        value=sum(sizes) / len(sizes),
        target=95,
        detail=f"{JOBS / took:,.0f} jobs/s",
    )


def _use(url: str) -> Figure:
    """Little's law: with enough work, as many batches run as may."""
    options = Options(latency=(2.0, 4.0))
    with standing_in(options) as remote, looking_into(url) as database:
        empty(database)
        batches = int(SECONDS / 3 * IN_FLIGHT) + 3 * IN_FLIGHT
        with database.engine.begin() as connection:
            enqueue(connection, judge_id="judge", inputs=inputs_of(batches * 100))
        with running(environment(url, remote, max_in_flight=IN_FLIGHT)):
            wait_for(lambda: remote.account().batches >= IN_FLIGHT)
            began = time.time()
            time.sleep(SECONDS)
            account, until = remote.account(), time.time()
        polls = rows(database, "SELECT avg(polls) FROM eval_batches WHERE state = 'finished'")
    return Figure(
        f"batches at the remote, latency 2 to 4 s, MAX_IN_FLIGHT {IN_FLIGHT}",
        compared_with=f"{IN_FLIGHT} always",
        value=_mean_known(account, began, until) / IN_FLIGHT,
        target=0.95,
        detail=f"{float(polls[0][0]):.1f} status requests a batch",
    )


def _mean_known(account: Account, began: float, until: float) -> float:
    """Batches that were running at the remote, on average over this time."""
    spent = sum(
        max(0.0, min(ends_at, until) - max(taken_at, began)) for taken_at, ends_at in account.events
    )
    return spent / (until - began)
