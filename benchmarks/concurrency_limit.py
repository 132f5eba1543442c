"""How much of a limit is used that the remote does not tell, and how often it has to say no."""

from __future__ import annotations

import time

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import Figure, mean_running, migrated_postgresql
from benchmarks.worker_process import environment, insert_job, open_database, running_workers

LIMIT = 40  # batches at once
MOST = 200  # MAX_IN_FLIGHT
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
        # Enough for the limit, if every batch took the least of its time.
        batches = LIMIT * (FIRST_SECONDS + SECONDS) / LATENCY[0] + MOST
        insert_job(database, int(batches) * 100)
        env = environment(server.url(), remote, max_in_flight=MOST, poll_min_seconds=1)
        with running_workers(env):
            time.sleep(FIRST_SECONDS * share)
            began, before = time.time(), remote.observations()
            time.sleep(max(LATENCY[1], SECONDS * share))
            until, after = time.time(), remote.observations()
    refused, asked = after.throttled - before.throttled, after.asked - before.asked
    setting = f"a remote that throttles above {LIMIT} batches, untold; MAX_IN_FLIGHT {MOST}"
    return [
        Figure(
            f"batches at the remote, {setting}",
            compared_with=f"{LIMIT} always, after the first minute",
            value=mean_running(after, began, until) / LIMIT,
            target=0.9,
            detail=f"{before.throttled} refused in the first minute",
        ),
        Figure(
            "the same: requests answered 429",
            compared_with="all requests, after the first minute",
            value=100 * refused / max(1, asked),
            target=2,
            at_most=True,
            unit="%",
            detail=f"{refused} of {asked:,}",
        ),
    ]
