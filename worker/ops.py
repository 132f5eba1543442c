"""The operations port: is this process alive, and is it fit to work?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.brokers import dead_threads
from worker.errors import SchemaMismatch
from worker.migrating import check_schema
from worker.port import in_background, listening
from worker.store import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from worker.app import App
    from worker.config import Settings
    from worker.store.database import Database

STALE_TURN_SECONDS = 60.0  # a dispatcher that has not turned for this long is in trouble


@contextlib.contextmanager
def serving_operations(settings: Settings, app: Starlette) -> Iterator[None]:
    """Answers on OPS_HOST:OPS_PORT while the block runs; does nothing where no port is set."""
    if settings.ops_port is None:
        yield
        return
    with (
        listening(settings.ops_host, settings.ops_port) as listener,
        in_background(app, listener, name="operations"),
    ):
        yield


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


def gateway_operations(database: Database) -> Starlette:
    """The same of a process that serves the gateway alone: all it needs is the database."""

    def livez(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def readyz(_: Request) -> Response:
        finding = _database(database)
        fit = finding == "ok"
        return JSONResponse({"ok": fit, "checks": {"database": finding}}, 200 if fit else 503)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz)])


def _checks(app: App) -> dict[str, str]:
    dead = dead_threads(app.worker)
    since = app.dispatcher.monotonic() - app.dispatcher.last_turn
    return {
        "database": _database(app.database),
        "broker": "ok" if not dead else f"threads have died: {', '.join(dead)}",
        "dispatcher": "ok" if since < STALE_TURN_SECONDS else f"no turn for {since:.0f} s",
    }


def _database(database: Database) -> str:
    try:
        check_schema(database)
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
