"""Batches with many evaluators and long justifications: rate, memory, and how long others wait.

Another process asks the worker's operations port whether it is alive, again and again. How long it
takes to answer shows how long a large response holds up every other thread of the worker.
"""

from __future__ import annotations

import http.client
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import Figure, inputs_of, migrated_postgresql
from benchmarks.resource_usage import watch_until_end
from benchmarks.worker_process import (
    environment,
    open_database,
    rows,
    running_workers,
    wait_for,
    working_seconds,
)
from tests.support.servers import free_port
from worker import enqueue

if TYPE_CHECKING:
    from worker.store.database import Database

EVALUATORS = 30
JUSTIFICATION = 2000  # characters
BATCHES = 100
IN_FLIGHT = 20
SECONDS_BETWEEN = 0.01  # two questions


def figures(share: float) -> list[Figure]:
    batches = max(2, int(BATCHES * share))
    options = Options(evaluators=EVALUATORS, justification=JUSTIFICATION)
    with (
        migrated_postgresql() as server,
        running_fake_judge(options) as remote,
        open_database(server.url()) as database,
    ):
        with database.engine.begin() as connection:
            enqueue(connection, judge_id="judge", inputs=inputs_of(batches * 100))
        before = _size(database)
        port = free_port()
        env = environment(server.url(), remote, max_in_flight=IN_FLIGHT, ops_port=port)
        with running_workers(env, drain=True) as workers:
            waits = _Waits(port)
            wait_for(lambda: remote.observations().batches)
            waits.start()
            megabytes, processor = watch_until_end(workers.processes[0])
            workers.wait()
        waits.join()
        took, grown = working_seconds(database), _size(database) - before
    results = batches * 100 * EVALUATORS
    return [
        Figure(
            f"memory of the worker, {EVALUATORS} results an input, justifications of"
            f" {JUSTIFICATION:,} characters, {IN_FLIGHT} batches in flight",
            compared_with="the whole process",
            value=megabytes,
            target=400,
            at_most=True,
            unit="MB",
            detail=f"{results / took:,.0f} results/s; processor"
            f" {processor / results * 1e6:.0f} µs a result; database {grown / results / 1e3:.1f} kB"
            " a result",
        ),
        Figure(
            "the same: longest time until its operations port answers",
            compared_with=f"median {sorted(waits.seconds)[len(waits.seconds) // 2]:.3f} s",
            value=max(waits.seconds),
            target=0.2,
            at_most=True,
            unit="s",
            detail=f"{sum(seconds > 0.2 for seconds in waits.seconds)} of"
            f" {len(waits.seconds):,} took longer than 0.2 s",
        ),
    ]


class _Waits(threading.Thread):
    """Ask whether the worker is alive until it has ended, and note how long each answer took."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.seconds: list[float] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        while True:
            try:
                began = time.monotonic()
                connection.request("GET", "/livez")
                connection.getresponse().read()
                self.seconds.append(time.monotonic() - began)
            except (OSError, http.client.HTTPException):  # it has ended
                return
            time.sleep(SECONDS_BETWEEN)


def _size(database: Database) -> int:
    [(size,)] = rows(database, "SELECT pg_database_size(current_database())")
    return int(size)
