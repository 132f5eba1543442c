"""Serve the operations port: liveness, readiness and metrics of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.config import Settings
from worker.errors import SchemaMismatch, Unreachable
from worker.http_server import bind_socket, serve_in_background
from worker.metrics import Metrics
from worker.pipeline.brokers import check_broker, dead_threads
from worker.store import job_queries, pauses
from worker.store.database import Database
from worker.store.schema_version import check_schema

if TYPE_CHECKING:
    from starlette.requests import Request

    from worker.app import App

MAX_CONNECTIONS = 64  # probes and scrapes need few
STALE_TURN_SECONDS = 60.0  # a dispatcher whose last turn is older than this is in trouble
OK = "ok"


@contextlib.contextmanager
def operations_server(settings: Settings, app: Starlette) -> Iterator[None]:
    """Serve `app` on OPS_HOST:OPS_PORT while the block runs, or nothing if no port is set."""
    if settings.ops_port is None:
        yield
        return
    with (
        bind_socket(settings.ops_host, settings.ops_port) as listener,
        serve_in_background(app, listener, name="operations", max_connections=MAX_CONNECTIONS),
    ):
        yield


def worker_operations(app: App) -> Starlette:
    """Build the operations port of a worker.

    `/livez` fails if a thread has died, `/readyz` also if the database, its schema, the broker or
    the dispatcher does not work. `/metrics` is for Prometheus.
    """

    def checks() -> dict[str, str]:
        return _database(app.database) | {
            "broker": _broker(app),
            "dispatcher": _dispatcher(app.dispatcher.turn_age()),
        }

    def state() -> dict[str, Any]:
        # A closed gate or a pause does not make a replica unready: a restart would not end it.
        age = round(app.dispatcher.turn_age(), 1)
        refusal = app.api.key.refusal
        return {
            "dispatcher_turned_seconds_ago": age,
            "pooler": app.database.pool_mode,
            "key_refused": None if refusal is None else refusal.reason,
            "leaves_work_to_others": app.context.standby.stands_by(),
            **_blocked(app.database),
        }

    return _build(lambda: dead_threads(app.worker), checks, state, app.metrics)


def gateway_operations(database: Database, metrics: Metrics) -> Starlette:
    """Build the operations port of a gateway without a worker, which only needs the database."""

    def state() -> dict[str, Any]:
        return {"pooler": database.pool_mode}

    return _build(list, lambda: _database(database), state, metrics)


def _build(
    dead: Callable[[], list[str]],
    checks: Callable[[], dict[str, str]],
    state: Callable[[], dict[str, Any]],
    metrics: Metrics,
) -> Starlette:
    def livez(_: Request) -> Response:
        found = dead()
        return JSONResponse({"ok": not found, "dead": found}, 503 if found else 200)

    def readyz(_: Request) -> Response:
        found = checks()
        fit = all(finding == OK for finding in found.values())
        return JSONResponse({"ok": fit, "checks": found, **state()}, 200 if fit else 503)

    def prometheus(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", prometheus)]
    )


def _database(database: Database) -> dict[str, str]:
    try:
        check_schema(database)
        if (obstacle := database.write_obstacle()) is not None:
            return {"database": f"cannot write: {obstacle}", "migrations": OK}
    except SchemaMismatch as error:
        return {"database": OK, "migrations": str(error)}
    except SQLAlchemyError as error:
        reason = f"does not answer: {type(error).__name__}"
        return {"database": reason, "migrations": "unknown: the database does not answer"}
    return {"database": OK, "migrations": OK}


def _broker(app: App) -> str:
    if dead := dead_threads(app.worker):
        return f"threads have died: {', '.join(dead)}"
    if (failing := app.messages.failing) is not None:
        return f"messages cannot be sent: {failing.reason}"
    try:
        check_broker(app.settings.broker_url)
    except Unreachable as error:
        return str(error)
    return OK


def _dispatcher(turn_age: float) -> str:
    return OK if turn_age < STALE_TURN_SECONDS else f"no turn for {turn_age:.0f} s"


def _blocked(database: Database) -> dict[str, Any]:
    """Read what work waits for. A database that does not answer is among the failed checks."""
    gates: list[dict[str, Any]] = []
    paused: list[dict[str, Any]] = []
    with contextlib.suppress(SQLAlchemyError), database.read() as connection:
        for gate in job_queries.closed_gates(connection):
            opens_at = gate.opens_at.isoformat()
            gates.append({"scope": gate.scope, "reason": gate.reason, "next_try": opens_at})
        for pause in pauses.list_pauses(connection):
            paused.append(pause._asdict() | {"since": pause.since.isoformat()})
    return {
        "api_paused": any(gate["scope"].startswith("api") for gate in gates),
        "waiting_for": gates,
        "paused": paused,
    }
