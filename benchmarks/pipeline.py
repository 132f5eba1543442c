"""Inputs through the whole worker, compared with a script that stores no state (`baseline.py`).

The remote responds immediately, so that only the cost of the worker is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import running_fake_judge
from benchmarks.measurement import Figure, fresh_databases, inputs_of
from benchmarks.worker_process import (
    delete_all,
    environment,
    open_database,
    running_workers,
    working_seconds,
)
from worker import enqueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.fake_judge_server import Remote

INPUTS = 40_000


def figures(share: float) -> list[Figure]:
    count = int(INPUTS * share)
    inputs = inputs_of(count)
    with fresh_databases() as (postgresql, sqlite), running_fake_judge() as remote:
        plain = script_seconds(remote, postgresql, inputs)
        one, two = (worker_seconds(remote, postgresql, inputs, processes=n) for n in (1, 2))
        plain_sqlite = script_seconds(remote, sqlite.removeprefix("sqlite:///") + ".plain", inputs)
        ours_sqlite = worker_seconds(remote, sqlite, inputs)
    script = "a script without durability"
    return [
        Figure(
            "inputs through the whole worker, PostgreSQL, one process",
            compared_with=f"{script}, COPY",
            value=plain / one,
            target=0.8,
            detail=f"{count / one:,.0f} and {count / plain:,.0f} inputs/s",
        ),
        Figure(
            "the same, two processes",
            compared_with="one process",
            value=one / two,
            target=1.0,
            detail=f"{count / two:,.0f} inputs/s",
        ),
        Figure(
            "the same, SQLite and memory",
            compared_with=f"{script}, `executemany`",
            value=plain_sqlite / ours_sqlite,
            target=0.6,
            detail=f"{count / ours_sqlite:,.0f} and {count / plain_sqlite:,.0f} inputs/s",
        ),
    ]


def script_seconds(remote: Remote, database: str, inputs: Sequence[dict[str, object]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.jsonl"
        file.write_text("".join(json.dumps(given) + "\n" for given in inputs))
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.baseline", remote.url, database, str(file)],
            capture_output=True,
            text=True,
            check=True,
        )
    return float(ran.stdout)


def worker_seconds(
    remote: Remote, url: str, inputs: Sequence[dict[str, object]], *, processes: int = 1
) -> float:
    broker = url if processes > 1 else "memory://"
    env = environment(url, remote, max_in_flight=32, broker_url=broker)
    with open_database(url) as database:
        delete_all(database)
        with database.engine.begin() as connection:
            enqueue(connection, judge_id="judge", inputs=inputs)
        with running_workers(env, processes=processes, drain=True) as workers:
            workers.wait()
        return working_seconds(database)
