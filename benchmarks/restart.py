"""How soon a new worker sees all batches at the remote after the previous one was killed."""

from __future__ import annotations

import time

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import Figure, migrated_postgresql
from benchmarks.worker_process import (
    environment,
    insert_job,
    open_database,
    running_workers,
    wait_for,
)

IN_FLIGHT = 1000
INPUTS = 10  # in a batch; only the number of batches matters here
LATENCY = 3600.0
MAX_REQUESTS = 20  # a second, after the kill; a burst of as many is accepted
SECONDS = 60.0  # that the new worker is observed


def figures(share: float) -> list[Figure]:
    in_flight, seconds = int(IN_FLIGHT * share), max(5.0, SECONDS * share)
    with (
        migrated_postgresql() as server,
        running_fake_judge(Options(latency=(LATENCY, LATENCY))) as remote,
        open_database(server.url()) as database,
    ):
        insert_job(database, in_flight * INPUTS)
        usual = {"poll_min_seconds": 2.0, "batch_size": INPUTS, "max_in_flight": in_flight}
        env = environment(server.url(), remote, **usual)
        with running_workers(env):
            wait_for(lambda: remote.observations().batches >= in_flight)
        remote.change(max_requests_per_second=MAX_REQUESTS)
        remote.forget()
        began, before = time.time(), remote.observations()
        with running_workers(env):
            time.sleep(seconds)
            after = remote.observations()
    asked, refused = after.asked - before.asked, after.throttled - before.throttled
    within = max(after.seen.values(), default=began) - began
    all_seen = len(after.seen) == in_flight
    return [
        Figure(
            "from the restart after SIGKILL until all of"
            f" {in_flight:,} batches in flight were seen",
            compared_with="each seen alone or in the list",
            value=within if all_seen else seconds,
            target=10,
            at_most=True,
            unit="s",
            detail="" if all_seen else f"only {len(after.seen):,} were seen",
        ),
        Figure(
            f"the same: throttled requests, at a remote that takes {MAX_REQUESTS} a second",
            compared_with="none",
            value=refused,
            target=0,
            at_most=True,
            detail=f"of {asked:,} in {seconds:.0f} s",
        ),
    ]
