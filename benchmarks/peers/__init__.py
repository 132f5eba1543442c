"""The same job by the worker and by what a user would write instead, in turns.

Three peers keep inputs, state and scores in PostgreSQL, and survive a restart: `with_dramatiq`,
`with_procrastinate` and `with_dbos`. `job` says what they do, and what is the same for all: tables,
statements, httpx, COPY, 32 batches at a time, one process. They do less than the worker: a response
that was lost is not looked for, failed inputs are not retried, and there is no history. The script
(`benchmarks.baseline`) keeps no state at all. The judge responds immediately, so that only their
own cost is measured: with responses as the API makes them, which show each input and have texts of
usual length; and with short ones.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.fake_judge_server import Options, running_fake_judge
from benchmarks.measurement import Figure, inputs_of, migrated_postgresql
from benchmarks.peers import job
from benchmarks.pipeline import script_seconds, worker_seconds
from tests.support.servers import PostgresServer, ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.fake_judge_server import Remote

INPUTS = 20_000
TURNS = 3
SCRIPT = "a script that stores no state"
# The least characters of a request and of its response, and what the judge responds.
RESPONSES: dict[str, tuple[int, dict[str, Any]]] = {
    "usual responses": (250, {"justification": 550, "shows_inputs": True}),
    "short responses": (0, {"justification": 0, "shows_inputs": False}),
}


def figures(share: float) -> list[Figure]:
    _check_installed()
    count = max(job.BATCH, int(INPUTS * share))
    valkey = ValkeyServer()
    with migrated_postgresql() as server, running_fake_judge() as remote:
        valkey.start()
        try:
            found = []
            for name, (characters, options) in RESPONSES.items():
                remote.change(**options)
                inputs = inputs_of(count, characters=characters)
                found += _compared(name, _rates(server, valkey, remote, inputs))
        finally:
            valkey.close()
    return found


def _compared(responses: str, rates: dict[str, float]) -> list[Figure]:
    ours = rates.pop("worker")
    return [
        Figure(
            f"inputs through the worker, PostgreSQL, {responses}",
            compared_with=name,
            value=ours / rate,
            target=0.8 if name == SCRIPT else 1.5,
            detail=f"{ours:,.0f} and {rate:,.0f} inputs/s",
        )
        for name, rate in rates.items()
    ]


def _check_installed() -> None:
    if missing := [name for name in ("dbos", "procrastinate") if find_spec(name) is None]:
        sys.exit(f"the peers need {' and '.join(missing)}: pip install -e '.[test,bench]'")


def _rates(
    server: PostgresServer, valkey: ValkeyServer, remote: Remote, inputs: list[dict[str, object]]
) -> dict[str, float]:
    """Return the median rate of each, in inputs a second."""

    def peer(module: str, *brokers: str) -> float:
        with server.database("template0") as url:
            batches = job.insert_inputs(url, inputs)
            seconds = _printed_seconds(module, url, remote.url, str(batches), *brokers)
            job.check_complete(url, len(inputs), len(inputs) * Options().evaluators)
        return seconds

    def script() -> float:
        with server.database("template0") as url:
            return script_seconds(remote, url, inputs)

    redis = f"redis://127.0.0.1:{valkey.port}/0"
    contenders: dict[str, Callable[[], float]] = {
        SCRIPT: script,
        "Dramatiq on Redis, with SQLAlchemy": lambda: peer("with_dramatiq", redis),
        "Procrastinate": lambda: peer("with_procrastinate"),
        "DBOS Transact": lambda: peer("with_dbos"),
        "worker": lambda: worker_seconds(remote, server.url(), inputs),
    }
    turns = [{name: run() for name, run in contenders.items()} for _ in range(TURNS)]
    return {name: len(inputs) / median(turn[name] for turn in turns) for name in contenders}


def _printed_seconds(module: str, *arguments: str) -> float:
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.peers.{module}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise RuntimeError(ran.stderr)
    return float(ran.stdout)
