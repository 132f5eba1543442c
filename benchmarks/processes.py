"""What one worker process and several cost a machine, by processor time.

Worker, PostgreSQL and judge share few cores here, so that elapsed time cannot show how processes
scale. Processor time can: it says how many cores of workers one core of PostgreSQL serves, and
whether an input costs more when several processes share the work.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import running_fake_judge
from benchmarks.measurement import Figure, inputs_of, migrated_postgresql
from benchmarks.resource_usage import cpu_seconds
from benchmarks.worker_process import (
    delete_all,
    environment,
    open_database,
    rows,
    running_workers,
    wait_for,
    working_seconds,
)
from tests.support.servers import ValkeyServer
from worker import enqueue

if TYPE_CHECKING:
    from benchmarks.fake_judge_server import Remote
    from tests.support.servers import PostgresServer
    from worker.store.database import Database

INPUTS = 20_000
ROUNDS = 2
SEVERAL = 4
SECONDS_BETWEEN = 0.1  # two looks at what PostgreSQL does
RUNNING = (
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)


@dataclass(frozen=True, slots=True)
class Run:
    """Milliseconds of processor time an input, and how often a statement waited for a lock."""

    workers: float
    postgresql: float
    waiting: float  # the share of running statements that waited for a lock of another
    rate: float  # inputs a second

    @property
    def processor(self) -> float:
        return self.workers + self.postgresql


def figures(share: float) -> list[Figure]:
    inputs = int(INPUTS * share)
    with (
        migrated_postgresql() as server,
        running_fake_judge() as remote,
        contextlib.closing(ValkeyServer()) as broker,
    ):
        broker.start()
        runs = [
            [
                _run(server, broker.url("processes"), remote, inputs, processes)
                for processes in (1, SEVERAL)
            ]
            for _ in range(ROUNDS)
        ]
    one, several = (
        min(column, key=lambda run: run.processor) for column in zip(*runs, strict=True)
    )
    return [
        Figure(
            "processor time of PostgreSQL, an input",
            compared_with="of the worker",
            value=one.postgresql / one.workers,
            target=1.5,
            at_most=True,
            detail=f"{one.postgresql:.3f} and {one.workers:.3f} ms: a core is enough for"
            f" {1e3 / one.postgresql:,.0f} inputs/s of PostgreSQL or {1e3 / one.workers:,.0f} of a"
            " worker",
        ),
        Figure(
            f"processor time of an input, {SEVERAL} processes",
            compared_with="one process",
            value=several.processor / one.processor,
            target=1.3,
            at_most=True,
            detail=f"workers {several.workers:.3f}, PostgreSQL {several.postgresql:.3f} ms;"
            f" {several.rate:,.0f} and {one.rate:,.0f} inputs/s, all on the same cores",
        ),
        Figure(
            f"statements that wait for a lock of another, {SEVERAL} processes",
            compared_with="all that run at a moment",
            value=100 * several.waiting,
            target=20,
            at_most=True,
            unit="%",
            detail=f"one process: {100 * one.waiting:.0f} %",
        ),
    ]


def _run(
    server: PostgresServer, broker_url: str, remote: Remote, inputs: int, processes: int
) -> Run:
    """Workers that have started already get a job; enqueuing it is part of PostgreSQL's time."""
    url = server.url()
    env = environment(url, remote, max_in_flight=32, broker_url=broker_url)
    with open_database(url) as database, running_workers(env, processes=processes) as workers:
        delete_all(database)
        wait_for(lambda: _count(database, "SELECT count(*) FROM eval_replicas") >= processes)
        pids = [process.pid for process in workers.processes]
        before = [cpu_seconds(server.pid()), sum(map(cpu_seconds, pids))]
        with database.engine.begin() as connection:
            enqueue(connection, judge_id="judge", inputs=inputs_of(inputs))
        running = waiting = 0
        while _count(database, "SELECT count(*) FROM eval_jobs WHERE finished_at IS NULL"):
            time.sleep(SECONDS_BETWEEN)
            running += _count(database, RUNNING)
            waiting += _count(database, f"{RUNNING} AND wait_event_type = 'Lock'")
        after = [cpu_seconds(server.pid()), sum(map(cpu_seconds, pids))]
        took = working_seconds(database)
    postgresql, by_workers = (
        (late - early) / inputs * 1e3 for early, late in zip(before, after, strict=True)
    )
    return Run(by_workers, postgresql, waiting / max(1, running), inputs / took)


def _count(database: Database, query: str) -> int:
    [(count,)] = rows(database, query)
    return int(count)
