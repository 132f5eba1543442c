"""How much of an unannounced limit of the remote is used, and how many requests it refuses."""

from __future__ import annotations

import time

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import Figure, mean_running, migrated_postgresql
from benchmarks.worker_process import environment, insert_job, open_database, running_workers

LIMIT = 40  # concurrent batches
MAX_IN_FLIGHT = 200
LATENCY = (5.0, 10.0)
FIRST_SECONDS = 60.0
SECONDS = 120.0


def figures(share: float) -> list[Figure]:
    options = Options(latency=LATENCY, max_running=LIMIT)
    with (
        migrated_postgresql() as server,
        running_fake_judge(options) as remote,
        open_database(server.url()) as database,
    ):
        # This is enough even if every batch takes the shortest time.
        batches = LIMIT * (FIRST_SECONDS + SECONDS) / LATENCY[0] + MAX_IN_FLIGHT
        insert_job(database, int(batches) * 100)
        env = environment(server.url(), remote, max_in_flight=MAX_IN_FLIGHT, poll_min_seconds=1)
        with running_workers(env):
            time.sleep(FIRST_SECONDS * share)
            began, before = time.time(), remote.observations()
            time.sleep(max(LATENCY[1], SECONDS * share))
            until, after = time.time(), remote.observations()
    refused, asked = after.throttled - before.throttled, after.asked - before.asked
    return [
        Figure(
            f"batches at a remote that throttles above {LIMIT}, unannounced;"
            f" `MAX_IN_FLIGHT` {MAX_IN_FLIGHT}",
            compared_with=f"{LIMIT} at all times, after the first minute",
            value=mean_running(after, began, until) / LIMIT,
            target=0.9,
            detail=f"{before.throttled} refused in the first minute",
        ),
        Figure(
            "the same: requests answered with 429",
            compared_with="all requests, after the first minute",
            value=100 * refused / max(1, asked),
            target=2,
            at_most=True,
            unit="%",
            detail=f"{refused} of {asked:,}",
        ),
    ]
