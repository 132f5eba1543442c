"""Serve the sandbox."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import serve_sandbox


def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.")] = 8321,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    state: Annotated[str, typer.Option(help="SQLite file that keeps its batches.")] = ":memory:",
    latency: Annotated[
        tuple[float, float],
        typer.Option(help="Minimum and maximum duration of a batch, in seconds."),
    ] = (0.5, 1.5),
    max_running: Annotated[
        int | None, typer.Option(help="Maximum number of running batches; more are throttled.")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(help="Maximum rate of requests; more are throttled.")
    ] = None,
    fail_items: Annotated[float, typer.Option(help="Share of inputs that fail, 0 to 1.")] = 0.0,
    lose_answers: Annotated[
        float, typer.Option(help="Share of responses that are lost, 0 to 1.")
    ] = 0.0,
    server_errors: Annotated[
        float, typer.Option(help="Share of requests answered with status 503, 0 to 1.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the random faults.")] = 0,
) -> None:
    options = SandboxOptions(
        latency=latency,
        max_running=max_running,
        requests_per_second=requests_per_second,
        fail_items=fail_items,
        lose_answers=lose_answers,
        server_errors=server_errors,
        seed=seed,
    )
    serve_sandbox(options, host=host, port=port, state=state)
