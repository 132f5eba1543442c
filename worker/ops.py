"""The operations port: is this process alive, and is it fit to work?"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.brokers import dead_threads
from worker.errors import SchemaMismatch
from worker.migrating import check_schema
from worker.store import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from worker.app import App

STALE_TURN_SECONDS = 60.0  # a dispatcher that has not turned for this long is in trouble


@contextlib.contextmanager
def serving_operations(app: App) -> Iterator[None]:
    """Answers on OPS_HOST:OPS_PORT while the block runs; does nothing where no port is set."""
    settings = app.settings
    if settings.ops_port is None:
        yield
        return
    server = uvicorn.Server(
        uvicorn.Config(
            operations(app),
            host=settings.ops_host,
            port=settings.ops_port,
            log_level="warning",
            log_config=None,
            lifespan="off",
        )
    )
    thread = threading.Thread(target=server.run, name="operations")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def operations(app: App) -> Starlette:
    """`/livez`: threads are running. `/readyz`: and everything they need is there."""

    def livez(_: Request) -> Response:
        dead = dead_threads(app.worker)
        return JSONResponse({"ok": not dead, "dead": dead}, 503 if dead else 200)

    def readyz(_: Request) -> Response:
        checks = _checks(app)
        fit = all(finding == "ok" for finding in checks.values())
        return JSONResponse(
            {"ok": fit, "checks": checks, "waiting_for": _closed(app)}, 200 if fit else 503
        )

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz)])


def _checks(app: App) -> dict[str, str]:
    dead = dead_threads(app.worker)
    since = app.dispatcher.monotonic() - app.dispatcher.last_turn
    return {
        "database": _database(app),
        "broker": "ok" if not dead else f"threads have died: {', '.join(dead)}",
        "dispatcher": "ok" if since < STALE_TURN_SECONDS else f"no turn for {since:.0f} s",
    }


def _database(app: App) -> str:
    try:
        check_schema(app.database)
    except SchemaMismatch as error:
        return str(error)
    except SQLAlchemyError as error:
        return f"does not answer: {type(error).__name__}"
    return "ok"


def _closed(app: App) -> list[dict[str, Any]]:
    """A closed gate does not make a replica unfit: restarting it would not open the gate."""
    with contextlib.suppress(SQLAlchemyError), app.database.read() as connection:
        return [
            {"scope": gate.scope, "reason": gate.reason, "next_try": gate.opens_at.isoformat()}
            for gate in jobs.closed_gates(connection)
        ]
    return []
