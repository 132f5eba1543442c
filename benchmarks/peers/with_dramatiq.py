"""The peer on Dramatiq and Redis, with SQLAlchemy: an actor for each batch.

python -m benchmarks.peers.with_dramatiq POSTGRESQL JUDGE BATCHES REDIS

The message carries an id, and the rows are the truth. A batch that still runs at the remote is
sent again with a delay. Dramatiq redelivers what a killed worker had not acknowledged.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import dramatiq
import httpx
import sqlalchemy as sa
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import job


class Evaluation:
    """What the actor does: submit a batch, or continue with it, and record its results."""

    def __init__(self, engine: sa.Engine, client: httpx.Client) -> None:
        self.engine = engine
        self.client = client

    def has_ended(self, batch_id: int) -> bool:
        """Return whether the batch is recorded; otherwise it is to be looked at again."""
        with self.engine.begin() as connection:
            rows = connection.exec_driver_sql(job.READ_BATCH, (batch_id,)).all()
        if not rows:
            return True  # recorded by an earlier delivery
        remote_id = rows[0][0] or self._submit(batch_id, rows)
        execution = self.client.get(job.STATUS_PATH.format(remote_id)).raise_for_status().json()
        if execution["status"] not in job.ENDED:
            return False
        with self.engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            job.record(driver, batch_id, execution)
        return True

    def _submit(self, batch_id: int, rows: Sequence[Any]) -> str:
        response = self.client.post(job.SUBMIT_PATH, json=job.submission(rows)).raise_for_status()
        remote_id: str = response.json()["batch_execution_id"]
        with self.engine.begin() as connection:
            connection.exec_driver_sql(job.SET_REMOTE_ID, (remote_id, batch_id))
        return remote_id


def main(database: str, judge: str, batches: str, redis: str) -> None:
    """Print the seconds from the first batch's start to the last one's end."""
    stopwatch = job.Stopwatch(int(batches))
    broker = RedisBroker(url=redis)  # type: ignore[no-untyped-call]
    dramatiq.set_broker(broker)
    engine = sa.create_engine(
        sa.make_url(database).set(drivername="postgresql+psycopg"), pool_size=job.IN_FLIGHT
    )
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=job.IN_FLIGHT)
    client = httpx.Client(base_url=judge, headers=job.HEADERS, limits=limits)
    evaluation = Evaluation(engine, client)

    @dramatiq.actor
    def evaluate(batch_id: int) -> None:
        stopwatch.start()
        if evaluation.has_ended(batch_id):
            stopwatch.finish()
        else:
            delay = int(job.POLL_SECONDS * 1000)
            evaluate.send_with_options(args=(batch_id,), delay=delay)

    for batch_id in range(int(batches)):
        evaluate.send(batch_id)
    worker = dramatiq.Worker(broker, worker_threads=job.IN_FLIGHT)
    worker.start()
    stopwatch.all_done.wait()
    worker.stop()
    client.close()
    engine.dispose()
    print(stopwatch.seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
