"""Memory while many inputs wait, and while they are read from a file."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import running_fake_judge
from benchmarks.measurement import Figure, input_of, migrated_postgresql
from benchmarks.resource_usage import peak_megabytes
from benchmarks.worker_process import environment, running_workers, wait_for

if TYPE_CHECKING:
    from benchmarks.fake_judge_server import Remote

INPUTS = 1_000_000
IDLE_SECONDS = 5.0
BATCHES = 100  # that the worker finishes while all others wait


def figures(share: float) -> list[Figure]:
    inputs = int(INPUTS * share)
    with (
        migrated_postgresql() as server,
        running_fake_judge() as remote,
        tempfile.TemporaryDirectory() as folder,
    ):
        env = environment(server.url(), remote, max_in_flight=32)
        one, many = (_file(Path(folder), count) for count in (1, inputs))
        megabytes = many.stat().st_size / 2**20
        idle = _of_worker(env, remote, batches=0)
        enqueuing_one, enqueuing = (_of_enqueue(env, file) for file in (one, many))
        working = _of_worker(env, remote, batches=max(5, int(BATCHES * share)))
    return [
        Figure(
            f"memory of the worker with {inputs:,} inputs waiting",
            compared_with="idle",
            value=working - idle,
            target=100,
            at_most=True,
            unit="MB more",
            detail=f"{idle:.0f} and {working:.0f} MB",
        ),
        Figure(
            f"memory of `evalworker enqueue`, a file of {inputs:,} lines",
            compared_with="a file of one line",
            value=enqueuing - enqueuing_one,
            target=100,
            at_most=True,
            unit="MB more",
            detail=f"{enqueuing_one:.0f} and {enqueuing:.0f} MB; the file has {megabytes:.0f} MB",
        ),
    ]


def _file(folder: Path, count: int) -> Path:
    file = folder / f"{count}.jsonl"
    with file.open("w") as lines:
        lines.writelines(json.dumps(input_of(n)) + "\n" for n in range(count))
    return file


def _of_worker(env: dict[str, str], remote: Remote, *, batches: int) -> float:
    """Return the peak memory of a worker after so many batches, or of an idle one."""
    until = remote.observations().batches + batches
    with running_workers(env) as workers:
        if batches:
            wait_for(lambda: remote.observations().batches >= until)
        else:
            time.sleep(IDLE_SECONDS)
        return peak_megabytes(workers.processes[0].pid)


def _of_enqueue(env: dict[str, str], file: Path) -> float:
    """Return the peak memory of `evalworker enqueue`, as seen until just before its end."""
    peak = 0.0
    command = [sys.executable, "-m", "worker", "enqueue", str(file), "--judge", "judge"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                peak = max(peak, peak_megabytes(process.pid))
            time.sleep(0.02)
    if process.returncode != 0:
        raise RuntimeError(f"enqueue ended with {process.returncode}")
    return peak
