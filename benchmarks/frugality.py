"""How many requests a job costs whose judge is not known yet, and how soon its ends are noticed.

A worker with the usual settings starts with an empty database and brings one job to its end.
"""

from __future__ import annotations

from statistics import median

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.list_watcher import counts, waits
from benchmarks.measurement import Figure, migrated_postgresql
from benchmarks.worker_process import environment, insert_job, open_database, running_workers
from worker.config import Settings

LATENCY = (15.0, 25.0)
SUBMIT_SECONDS = 1.0
BATCHES = 200
IN_FLIGHT = 100


def figures(share: float) -> list[Figure]:
    latency = (LATENCY[0] * share, LATENCY[1] * share)
    batches, in_flight = (max(5, int(count * share)) for count in (BATCHES, IN_FLIGHT))
    with (
        migrated_postgresql() as server,
        running_fake_judge(Options(latency, submit_seconds=SUBMIT_SECONDS)) as remote,
        open_database(server.url()) as database,
    ):
        insert_job(database, batches * 100)
        env = environment(server.url(), remote, max_in_flight=in_flight, **_usual_waits())
        with running_workers(env, drain=True) as workers:
            workers.wait()
        observed = remote.observations()
        late = [seconds for seconds, _ in waits(database, observed)]
    asked = {kind: count / observed.batches for kind, count in observed.requests.items()}
    return [
        Figure(
            f"requests a batch, the first {batches} of a judge, latency {latency[0]:g} to"
            f" {latency[1]:g} s, {in_flight} in flight",
            compared_with="2: a submission and a full read",
            value=sum(asked.values()),
            target=2.6,
            at_most=True,
            detail=counts(asked),
        ),
        Figure(
            "the same: from a batch's end at the remote to its committed results",
            compared_with="median",
            value=median(late),
            target=1,
            at_most=True,
            unit="s",
            detail=f"the last one: {max(late):.1f} s",
        ),
    ]


def _usual_waits() -> dict[str, object]:
    names = ("linger_seconds", "poll_min_seconds", "poll_max_seconds")
    return {name: Settings.model_fields[name].default for name in names}
