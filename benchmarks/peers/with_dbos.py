"""The peer on DBOS Transact: a durable workflow for each batch, with a step for each request.

python -m benchmarks.peers.with_dbos POSTGRESQL JUDGE BATCHES

DBOS records what each step returns, so that a restarted workflow continues after its last step. The
second step records the scores itself: its answer is too large to be recorded twice.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
import psycopg_pool
from dbos import DBOS

from benchmarks.peers import job

QUEUE = "batches"


def main(database: str, judge: str, batches: str) -> None:
    """Print the seconds from the first batch's start to the last one's end."""
    stopwatch = job.Stopwatch(int(batches))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=job.IN_FLIGHT)
    client = httpx.Client(base_url=judge, headers=job.HEADERS, limits=limits)
    pool = psycopg_pool.ConnectionPool(
        database, min_size=4, max_size=job.IN_FLIGHT, kwargs={"autocommit": True}, open=True
    )
    DBOS(
        config={
            "name": "peer",
            "system_database_url": database,
            "sys_db_pool_size": job.IN_FLIGHT,
            "log_level": "WARNING",
        }
    )

    @DBOS.step()
    def submit(batch_id: int) -> str:
        with pool.connection() as connection:
            rows = connection.execute(job.READ_BATCH, (batch_id,)).fetchall()
        response = client.post(job.SUBMIT_PATH, json=job.submission(rows)).raise_for_status()
        remote_id: str = response.json()["batch_execution_id"]
        return remote_id

    @DBOS.step()
    def record_if_ended(batch_id: int, remote_id: str) -> bool:
        response = client.get(job.STATUS_PATH.format(remote_id)).raise_for_status()
        execution: dict[str, Any] = response.json()
        if execution["status"] not in job.ENDED:
            return False
        with pool.connection() as connection, connection.transaction():
            job.record(connection, batch_id, execution)
        return True

    @DBOS.workflow(name="evaluate")
    def evaluate(batch_id: int) -> None:
        stopwatch.start()
        remote_id = submit(batch_id)
        while not record_if_ended(batch_id, remote_id):
            DBOS.sleep(job.POLL_SECONDS)
        stopwatch.finish()

    DBOS.launch()
    for batch_id in range(int(batches)):
        DBOS.enqueue_workflow(QUEUE, evaluate, batch_id)
    # Only now does this process take workflows from the queue. By default it asks once a second.
    DBOS.register_queue(QUEUE, worker_concurrency=job.IN_FLIGHT, polling_interval_sec=0.01)
    stopwatch.all_done.wait()
    DBOS.destroy()
    pool.close()
    client.close()
    print(stopwatch.seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
