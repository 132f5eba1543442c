"""Whether the judge service is what one waits for, with 64 calls of a model at a time.

A stand-in for the model takes the same time for every call, in a process of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measurement import Figure, input_of
from benchmarks.resource_usage import cpu_seconds, peak_megabytes
from tests.support.judge_files import write_judge
from tests.support.model_endpoint import ModelEndpoint

INPUTS = 10_000
EVALUATORS = 3
AT_ONCE = 64
CALL_SECONDS = 0.5
BATCH = 100
MAX_MILLISECONDS = 4  # of processor time for an evaluation: 64 calls at a time take 7.8 each
LIST = "/v1/judges/batch-executions/"


def figures(share: float) -> list[Figure]:
    inputs = max(BATCH, round(INPUTS * share))
    with tempfile.TemporaryDirectory() as folder, _running_model() as model_url:
        write_judge(Path(folder), model_url, evaluators=EVALUATORS, concurrency=AT_ONCE)
        with _running_service(Path(folder)) as (url, pid), httpx.Client(base_url=url) as client:
            cpu_before, began = cpu_seconds(pid), time.monotonic()
            for first in range(0, inputs, BATCH):
                _submit(client, [input_of(n) for n in range(first, first + BATCH)])
            while client.get(LIST, params={"status": "processing"}).json()["results"]:
                time.sleep(0.2)
            elapsed, cpu = time.monotonic() - began, cpu_seconds(pid) - cpu_before
            memory = peak_megabytes(pid)
        state = (Path(folder) / "judge.db").stat().st_size / 1e6
    evaluations = inputs * EVALUATORS
    least = evaluations * CALL_SECONDS / AT_ONCE
    size = f"{inputs:,} inputs, {EVALUATORS} evaluators, {AT_ONCE} calls at a time"
    return [
        Figure(
            f"judge service: {size}",
            compared_with=f"the calls alone, {CALL_SECONDS} s each: {least:.0f} s",
            value=elapsed / least,
            target=1.25,
            at_most=True,
            detail=f"{elapsed:.0f} s, {evaluations / elapsed:.0f} evaluations/s",
        ),
        Figure(
            "the same: processor time of the service for an evaluation",
            compared_with="-",
            value=1000 * cpu / evaluations,
            target=MAX_MILLISECONDS,
            at_most=True,
            unit="ms",
            detail=f"peak memory {memory:.0f} MB, state file {state:.0f} MB",
        ),
    ]


def _submit(client: httpx.Client, inputs: list[dict[str, Any]]) -> None:
    client.post("/v1/judges/own/batch-execute/", json={"inputs": inputs}).raise_for_status()


@contextlib.contextmanager
def _running_model() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_model, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _serve_model(pipe: Connection) -> None:
    with ModelEndpoint(seconds=CALL_SECONDS).running() as model:
        pipe.send(model.url)
        pipe.recv()


@contextlib.contextmanager
def _running_service(folder: Path) -> Iterator[tuple[str, int]]:
    """Run the service as its users do, and yield its URL and its process id."""
    command = [sys.executable, "-m", "worker", "judge", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().rpartition("=")[2]
            with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=8)) as client:
                client.get(LIST).raise_for_status()
            yield url, process.pid
        finally:
            process.kill()
