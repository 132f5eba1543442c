"""Serve the sandbox: the judge service with its built-in judges, behind a layer of faults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from worker.judge.app import JudgeService
from worker.judge.engine import Engine
from worker.judge.judges_file import Definitions, load_definitions
from worker.judge.ledger import IN_MEMORY, Ledger
from worker.judge.server import running, serve
from worker.sandbox.faults import Faults
from worker.sandbox.options import SandboxOptions


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that serves requests at `url`."""

    url: str
    api_key: str


def sandbox_definitions() -> Definitions:
    """Return the built-in judges, which need no model."""
    return load_definitions(Path(str(files("worker.sandbox") / "judges.toml")))


def sandbox_app(options: SandboxOptions, ledger: Ledger) -> ASGIApp:
    faults = Faults(options, clock=ledger.clock)
    definitions = replace(sandbox_definitions(), server_key=options.api_key)
    service = JudgeService(
        Engine(definitions, ledger),
        layer=faults.in_front_of,
        measure=faults.measure,
        max_body_bytes=options.max_body_bytes,
    )

    async def account(_: Request) -> dict[str, Any]:
        """Return what was evaluated, for tests and demos; the real API has no such path."""
        batches, inputs, distinct = ledger.totals()
        return {
            "batches": batches,
            "inputs_evaluated": inputs,
            "distinct_inputs": distinct,
            "evaluated_again": inputs - distinct,
            "requests": dict(faults.responses),
        }

    app = service.create_app()
    app.routes.append(service.route("account", "/sandbox/account/", account))
    return app


@contextlib.contextmanager
def running_sandbox(
    options: SandboxOptions, *, state: str | Path = IN_MEMORY, port: int = 0
) -> Iterator[RunningSandbox]:
    """Serve a sandbox in the background on a loopback port; 0 means any free one."""
    with running(partial(sandbox_app, options), state=state, port=port) as url:
        yield RunningSandbox(url, options.api_key)


def serve_sandbox(options: SandboxOptions, *, host: str, port: int, state: str | Path) -> None:
    """Serve a sandbox in the foreground until SIGINT or SIGTERM."""
    create_app = partial(sandbox_app, options)
    serve(create_app, host=host, port=port, state=state, key=options.api_key)
