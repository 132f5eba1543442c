"""What the settings name, opened: a database that answers, and a client of the judge API.

Apart from `app`, so that whoever only operates need not load what works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from worker.config import API_KEY_NAMES, hide_password
from worker.errors import ConfigurationError, Unreachable
from worker.lifecycle import Unavailable
from worker.store.database import Database

if TYPE_CHECKING:
    from worker.config import Settings
    from worker.remote import JudgeAPI

CHECK_SECONDS = 3.0  # for the API to answer anything at the start


def open_database(settings: Settings) -> Database:
    """A database that answers; raises `Unreachable`."""
    database = Database(settings.sqlalchemy_url)
    try:
        with database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except SQLAlchemyError as error:
        database.close()
        cause = getattr(error, "orig", None) or error
        raise Unreachable("database", hide_password(settings.database_url), cause) from error
    return database


def judge_api(settings: Settings, **bounds: Any) -> JudgeAPI:
    """A client with the key of the settings; raises `ConfigurationError` where there is none."""
    from worker.remote import JudgeAPI  # and httpx, which few commands need

    if settings.api_key is None:
        raise ConfigurationError(
            [f"{API_KEY_NAMES[0]} is not set (nor {' or '.join(API_KEY_NAMES[1:])})"]
        )
    key = settings.api_key.get_secret_value()
    return JudgeAPI(base_url=settings.api_url, api_key=key, **bounds)


def check_api(settings: Settings) -> None:
    """Raises `Unreachable` if nothing at all answers at the API's URL."""
    with judge_api(settings, deadline=CHECK_SECONDS) as api:
        outcome = api.list_executions()
    if isinstance(outcome, Unavailable) and not outcome.sent:
        raise Unreachable("judge API", settings.api_url, outcome.reason)
