"""Show the checks of `evalworker check`, as this process sees its settings."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

import worker
from worker.checks import find_problems
from worker.console.visit import Visit
from worker.store.schema_version import current_revision

SHARED_SECONDS = 30.0  # a check of the judge API is a request to it


def show(visit: Visit) -> Response:
    view = visit.reader.share("health", lambda: _check(visit), seconds=SHARED_SECONDS)
    problems = view["checks"].values()
    return visit.page("health.html", ok=not any(problems), **view)


def _check(visit: Visit) -> dict[str, Any]:
    database = visit.admin.database
    return {
        "checks": find_problems(visit.settings),
        "version": worker.__version__,
        "schema": current_revision(database),
        "database": "PostgreSQL" if database.on_postgresql else "SQLite",
    }
