"""The peer on Procrastinate: an asynchronous task for each batch, in PostgreSQL.

python -m benchmarks.peers.with_procrastinate POSTGRESQL JUDGE BATCHES

Procrastinate's guide recommends asynchronous tasks where many wait at the same time, so a task
waits for its batch.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import procrastinate
import psycopg_pool

from benchmarks.peers import job

Pool = psycopg_pool.AsyncConnectionPool


class Evaluation:
    """What the task does: submit a batch, or continue with it, and record its results."""

    def __init__(self, pool: Pool, client: httpx.AsyncClient) -> None:
        self.pool = pool
        self.client = client

    async def run(self, batch_id: int) -> None:
        async with self.pool.connection() as connection:
            rows = await (await connection.execute(job.READ_BATCH, (batch_id,))).fetchall()
        if not rows:
            return  # recorded by an earlier attempt
        remote_id = rows[0][0] or await self._submit(batch_id, rows)
        await self._record(batch_id, await self._ended_execution(remote_id))

    async def _submit(self, batch_id: int, rows: list[Any]) -> str:
        response = await self.client.post(job.SUBMIT_PATH, json=job.submission(rows))
        remote_id: str = response.raise_for_status().json()["batch_execution_id"]
        async with self.pool.connection() as connection:
            await connection.execute(job.SET_REMOTE_ID, (remote_id, batch_id))
        return remote_id

    async def _ended_execution(self, remote_id: str) -> dict[str, Any]:
        while True:
            response = await self.client.get(job.STATUS_PATH.format(remote_id))
            execution: dict[str, Any] = response.raise_for_status().json()
            if execution["status"] in job.ENDED:
                return execution
            await asyncio.sleep(job.POLL_SECONDS)

    async def _record(self, batch_id: int, execution: dict[str, Any]) -> None:
        async with self.pool.connection() as connection, connection.transaction():
            if (await connection.execute(job.FINISH_BATCH, (batch_id,))).rowcount == 0:
                return
            async with connection.cursor().copy(job.COPY_SCORES) as copy:
                for row in job.score_rows(batch_id, execution):
                    await copy.write_row(row)
            failed = job.failed_inputs(batch_id, execution)
            await connection.execute(job.FINISH_INPUTS, (failed, batch_id))


async def run(database: str, judge: str, batches: int) -> float:
    """Return the seconds from the first batch's start to the last one's end."""
    stopwatch = job.Stopwatch(batches)
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=database, max_size=job.IN_FLIGHT)
    )
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=job.IN_FLIGHT)
    async with (
        httpx.AsyncClient(base_url=judge, headers=job.HEADERS, limits=limits) as client,
        Pool(database, min_size=4, max_size=job.IN_FLIGHT, kwargs={"autocommit": True}) as pool,
        app.open_async(),
    ):
        evaluation = Evaluation(pool, client)

        @app.task
        async def evaluate(batch_id: int) -> None:
            stopwatch.start()
            await evaluation.run(batch_id)
            stopwatch.finish()

        await app.schema_manager.apply_schema_async()
        await evaluate.batch_defer_async(*({"batch_id": n} for n in range(batches)))
        await app.run_worker_async(concurrency=job.IN_FLIGHT, wait=False)
    return stopwatch.seconds


def main(database: str, judge: str, batches: str) -> None:
    print(asyncio.run(run(database, judge, int(batches))))


if __name__ == "__main__":
    main(*sys.argv[1:])
