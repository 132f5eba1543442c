"""Run the worker in a thread of the test, over real servers; enqueue inputs and check results."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from tests.support.processes import account
from worker import enqueue
from worker.app import App
from worker.config import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from worker.sandbox.server import RunningSandbox
    from worker.store.database import Database

RECOVERY_SECONDS = 40.0  # what is promised: after so long work goes on, whatever has died


def settings_for(
    database_url: str, broker_url: str, judge: RunningSandbox, **changes: object
) -> Settings:
    quick = {"poll_min_seconds": 0.1, "linger_seconds": 0.1}
    return load_settings(
        database_url=database_url,
        broker_url=broker_url,
        api_url=judge.url,
        api_key=judge.api_key,
        **(quick | changes),
    )


@contextlib.contextmanager
def running_worker(
    settings: Settings, transport: httpx.BaseTransport | None = None
) -> Iterator[App]:
    """Run a worker in a thread of its own, and end it in order with the block."""
    with App(settings, transport=transport) as app:
        thread = threading.Thread(target=app.run)
        thread.start()
        try:
            yield app
        finally:
            app.end()
            thread.join()


def enqueue_inputs(database: Database, count: int, *, prefix: str = "q", **job: Any) -> None:
    with database.engine.begin() as connection:
        enqueue(
            connection,
            judge_id="response-checks",
            inputs=[{"request": f"{prefix}{n}", "response": f"{prefix}{n}"} for n in range(count)],
            **job,
        )


def count_rows(database: Database, what: str) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {what}").scalar() or 0)


def all_results_are_recorded_once(database: Database, judge: RunningSandbox, inputs: int) -> bool:
    """Check by both accounts that each input has its results and none was evaluated twice."""
    found = account(judge)
    assert (found["inputs_evaluated"], found["evaluated_again"]) == (inputs, 0)
    assert count_rows(database, "eval_items WHERE status = 'completed'") == inputs
    assert count_rows(database, "eval_scores") == 2 * inputs  # this judge has two evaluators
    assert count_rows(database, "eval_jobs WHERE status <> 'completed'") == 0
    return True
