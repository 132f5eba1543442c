"""A million inputs through PostgreSQL, compared with a small job."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import running_fake_judge
from benchmarks.measurement import Figure, input_of, migrated_postgresql
from benchmarks.resource_usage import cpu_seconds, watch_until_end
from benchmarks.worker_process import delete_all, environment, open_database, rows, running_workers
from worker import enqueue

if TYPE_CHECKING:
    from benchmarks.fake_judge_server import Remote
    from tests.support.servers import PostgresServer

INPUTS = 1_000_000
FEW = 40_000


@dataclass(frozen=True, slots=True)
class Run:
    """One run from the outbox to the scores."""

    enqueuing: float  # seconds
    marks: list[float]  # when each tenth of the inputs had ended
    processor: float  # seconds, of worker and PostgreSQL
    megabytes: float  # peak memory of the worker
    database: str  # its size

    def seconds(self) -> float:
        return self.marks[-1] - self.marks[0]


def figures(share: float) -> list[Figure]:
    few, many = int(FEW * share), int(INPUTS * share)
    with migrated_postgresql() as server, running_fake_judge() as remote:
        small, big = (_run(server, remote, inputs) for inputs in (few, many))
    first, last = (big.marks[n + 1] - big.marks[n] for n in (0, 9))
    return [
        Figure(
            f"{many:,} inputs through the whole worker, PostgreSQL: seconds an input",
            compared_with=f"{few:,} inputs",
            value=(big.seconds() / many) / (small.seconds() / few),
            target=1.2,
            at_most=True,
            detail=f"{big.seconds():,.0f} s, {many / big.seconds():,.0f} inputs/s; enqueued in"
            f" {big.enqueuing:.0f} s; processor {big.processor / many * 1e3:.2f} ms an input",
        ),
        Figure(
            "the same: the last tenth",
            compared_with="the first tenth",
            value=last / first,
            target=1.2,
            at_most=True,
            detail=f"{many / 10 / first:,.0f} and {many / 10 / last:,.0f} inputs/s",
        ),
        Figure(
            "the same: memory of the worker",
            compared_with=f"{few:,} inputs",
            value=big.megabytes - small.megabytes,
            target=100,
            at_most=True,
            unit="MB more",
            detail=f"{small.megabytes:.0f} and {big.megabytes:.0f} MB; database {big.database}",
        ),
    ]


def _run(server: PostgresServer, remote: Remote, inputs: int) -> Run:
    with open_database(server.url()) as database:
        delete_all(database)
        began = time.perf_counter()
        with database.engine.begin() as connection:
            enqueue(connection, judge_id="judge", inputs=map(input_of, range(inputs)))
        enqueuing = time.perf_counter() - began
        spent = -cpu_seconds(server.pid())
        env = environment(server.url(), remote, max_in_flight=32)
        with running_workers(env, drain=True) as workers:
            megabytes, by_worker = watch_until_end(workers.processes[0])
            workers.wait()
        spent += cpu_seconds(server.pid()) + by_worker
        [(size,)] = rows(database, "SELECT pg_size_pretty(pg_database_size(current_database()))")
        moments = [
            at.timestamp()
            for (at,) in rows(
                database,
                "SELECT min(at) FROM eval_events WHERE event = 'batch.planned' UNION ALL"
                " (SELECT at FROM eval_events WHERE event = 'batch.finished' ORDER BY at)",
            )
        ]
    marks = [moments[(len(moments) - 1) * tenth // 10] for tenth in range(11)]
    return Run(enqueuing, marks, spent, megabytes, size)
