"""Test what the settings point to: the database, the broker, the judge API and the keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from worker.admin import Admin
from worker.config import Settings, hide_password
from worker.console.access import Access
from worker.domain.outcomes import Denied, Listed, NotFound, Throttled, Unavailable
from worker.errors import EvalWorkerError, Unreachable
from worker.gateway.auth import read_keys
from worker.pipeline.broker_check import try_broker
from worker.remote.client import open_judge_api
from worker.store.database import open_database
from worker.store.job_queries import asks_for_notices
from worker.store.outage import RIGHTS_REMEDY, first_line, lacks_rights
from worker.store.schema_version import check_encoding
from worker.tracing.exporter import check_export
from worker.webhooks.client import NO_SECRET


def find_problems(settings: Settings) -> dict[str, str | None]:
    """Try every connection, and return for each check what is wrong; None: nothing."""
    found = {
        "database": _error_of(_check_database, settings),
        "broker": _error_of(_check_broker, settings),
        "judge API": _error_of(_check_api, settings),
    }
    if settings.listen_url is not None:
        found["listen URL"] = _error_of(_check_listen_url, settings)
    if settings.gateway_keys is not None:
        found["gateway's keys"] = _error_of(_check_gateway_keys, settings)
    if settings.console_keys is not None:
        found["console's keys"] = _error_of(_check_console_keys, settings)
    if found["database"] is None and (unsigned := _error_of(_check_notices, settings)):
        found["notices"] = unsigned
    if untraced := _error_of(_check_export, settings):
        found["tracing"] = untraced
    return found


def _error_of(check_one: Callable[[Settings], None], settings: Settings) -> str | None:
    try:
        check_one(settings)
    except EvalWorkerError as error:
        return str(error)
    except SQLAlchemyError as error:
        if not lacks_rights(error):
            raise
        return f"{first_line(error)}; {RIGHTS_REMEDY}"
    return None


def _check_database(settings: Settings) -> None:
    with Admin(settings.database_url) as admin:
        check_encoding(admin.database)
        if (obstacle := admin.database.write_obstacle()) is not None:
            raise EvalWorkerError(f"cannot write: {obstacle}")
        admin.status()  # which needs the rights of a reader


def _check_listen_url(settings: Settings) -> None:
    """Open a connection as a worker does that wants to hear of new jobs."""
    with contextlib.closing(open_database(settings)) as database:
        try:
            connection = database.listening_connection()
        except SQLAlchemyError as error:
            url = hide_password(settings.listen_url or "")
            raise Unreachable("database", url, getattr(error, "orig", None) or error) from error
    if connection is None:
        raise EvalWorkerError("leads to a pooler, which passes on no notifications")
    connection.close()


def _check_notices(settings: Settings) -> None:
    database = open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        is_unset = settings.webhook_secret is None
        if is_unset and asks_for_notices(connection, failed_with=NO_SECRET):
            raise EvalWorkerError(f"jobs have a callback_url, but {NO_SECRET}")


def _check_broker(settings: Settings) -> None:
    try_broker(settings.broker_url)


def _check_export(_: Settings) -> None:
    check_export()


def _check_gateway_keys(settings: Settings) -> None:
    read_keys(settings.gateway_keys.get_secret_value() if settings.gateway_keys else None)


def _check_console_keys(settings: Settings) -> None:
    Access.from_settings(settings)


def _check_api(settings: Settings) -> None:
    """Test the key with a request for the list of batches, which costs nothing."""
    with open_judge_api(settings) as api:
        match api.list_executions():
            case Listed():
                return
            case NotFound(reason, is_path_known=False):
                raise EvalWorkerError(
                    f"{settings.api_url} has no list of batches ({reason}): is EVALWORKER_API_URL "
                    "right? It is what comes before /v1/judges/ in the API's documentation"
                )
            case NotFound(reason):
                raise EvalWorkerError(f"answers, but has no list of batches to search: {reason}")
            case Denied(reason) | Throttled(reason) | Unavailable(reason):
                raise EvalWorkerError(f"{settings.api_url}: {reason}")
