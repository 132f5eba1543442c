"""How many requests and how much time it takes to notice that batches ended, with and without
the list.

Two workers run concurrently, each with its own remote, because they sleep most of the time.
"""

from __future__ import annotations

import contextlib
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import Figure, migrated_postgresql, requests_per_batch
from benchmarks.worker_process import (
    environment,
    insert_job,
    open_database,
    rows,
    running_workers,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.fake_judge_server import Observations, Remote
    from worker.store.database import Database

LATENCY = (30.0, 60.0)
IN_FLIGHT = 200
SETTLING = 75.0  # seconds until batches no longer begin and end together
SECONDS = 180.0
LAST_SECONDS = 15.0  # batches that end in these may rightly be unnoticed


def figures(share: float) -> list[Figure]:
    latency = (LATENCY[0] * share, LATENCY[1] * share)
    in_flight = max(5, int(IN_FLIGHT * share))
    seconds = max(10.0, SECONDS * share)
    with contextlib.ExitStack() as opened:
        at_work = [
            opened.enter_context(
                _at_work(Options(latency, has_list=has_list), in_flight, SETTLING * share + seconds)
            )
            for has_list in (True, False)
        ]
        time.sleep(SETTLING * share)
        began, before = time.time(), [remote.observations() for remote, _ in at_work]
        time.sleep(seconds)
        after = [remote.observations() for remote, _ in at_work]
        until = time.time() - LAST_SECONDS * share
        asked = [requests_per_batch(*pair) for pair in zip(before, after, strict=True)]
        late = [
            waits(database, observed, began, until)
            for (_, database), observed in zip(at_work, after, strict=True)
        ]
    setting = f"latency {latency[0]:g} to {latency[1]:g} s, {in_flight} in flight"
    with_list, without = asked
    return [
        Figure(
            f"requests a batch, {setting}, with the list",
            compared_with="2: a submission and a full read",
            value=sum(with_list.values()),
            target=2.3,
            at_most=True,
            detail=counts(with_list),
        ),
        Figure(
            "the same, without the list",
            compared_with="2",
            value=sum(without.values()),
            target=5,
            at_most=True,
            detail=counts(without),
        ),
        Figure(
            "from a batch's end at the remote to its committed results, with the list",
            compared_with="median",
            value=median(seconds for seconds, _ in late[0]),
            target=1,
            at_most=True,
            unit="s",
            detail=f"99th percentile: {_percentile_99([seconds for seconds, _ in late[0]]):.1f} s",
        ),
        Figure(
            "the same, without the list",
            compared_with="the batch's run time, median",
            value=100 * median(seconds / ran for seconds, ran in late[1]),
            target=10,
            at_most=True,
            unit="%",
            detail=f"median {median(seconds for seconds, _ in late[1]):.1f} s",
        ),
    ]


@contextlib.contextmanager
def _at_work(options: Options, in_flight: int, seconds: float) -> Iterator[tuple[Remote, Database]]:
    """Run a worker with enough work for so many seconds after all slots are in use."""
    batches = in_flight * (2 + seconds / options.latency[0])
    with (
        migrated_postgresql() as server,
        running_fake_judge(options) as remote,
        open_database(server.url()) as database,
    ):
        insert_job(database, int(batches) * 100)
        usual = {"poll_min_seconds": 2.0, "poll_max_seconds": 30.0}
        env = environment(server.url(), remote, max_in_flight=in_flight, **usual)
        with running_workers(env):
            wait_for(lambda: remote.observations().batches >= in_flight)
            yield remote, database


def waits(
    database: Database,
    observed: Observations,
    began: float = float("-inf"),
    until: float = float("inf"),
) -> list[tuple[float, float]]:
    """Return the seconds until each batch that ended in this time was recorded, and those it ran.

    A batch that is not yet recorded has waited at least until now.
    """
    recorded = {
        remote_id: at.timestamp()
        for remote_id, at in rows(
            database,
            "SELECT b.remote_batch_id, e.at FROM eval_batches b JOIN eval_events e"
            " ON e.batch_id = b.id AND e.event = 'batch.finished'",
        )
    }
    now = time.time()
    return [
        (recorded.get(batch_id, now) - ends_at, ends_at - taken_at)
        for batch_id, (taken_at, ends_at) in observed.spans.items()
        if began <= ends_at <= until
    ]


def counts(asked: dict[str, float]) -> str:
    return ", ".join(f"{kind} {count:.2f}" for kind, count in sorted(asked.items()) if count)


def _percentile_99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
