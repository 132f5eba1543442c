"""Brings a database to this worker's schema, and tells whether it is there.

The scripts are those of `migrations/`: from a checkout they lie beside the package, in an
installed wheel inside it. Alembic is loaded where it is needed: every command looks at the schema,
and hardly any migrates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from worker.errors import ConfigurationError, EvalWorkerError
from worker.store.schema_version import current_revision

if TYPE_CHECKING:
    from alembic.config import Config

    from worker.store.database import Database


def upgrade(database: Database, revision: str = "head") -> str:
    """Migrates up, in one transaction; returns the revision that the database then has."""
    from alembic import command

    _run(database, lambda config: command.upgrade(config, revision))
    return current_revision(database) or ""


def downgrade(database: Database, revision: str = "base") -> None:
    """Migrates down, in one transaction. Down to "base" drops every row of the worker's tables."""
    from alembic import command

    _run(database, lambda config: command.downgrade(config, revision))


def grant_roles(database: Database) -> None:
    """Creates PostgreSQL's roles of least privilege, or brings them up to date."""
    if not database.on_postgresql:
        raise ConfigurationError(["roles are PostgreSQL's: on SQLite, who has the file has it all"])
    try:
        with database.engine.begin() as connection:
            # Unread by the driver: its '%' are SQL's own, and it is many statements.
            unread = connection.execution_options(no_parameters=True)
            unread.exec_driver_sql(script("roles.sql"))
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise EvalWorkerError(
            f"the roles could not be made: {reason}; whoever makes them owns the tables and has "
            "CREATEROLE, or finds them created by somebody who has"
        ) from error


def script(name: str) -> str:
    """The text of a plain SQL script beside the migrations."""
    return (_scripts() / name).read_text("utf-8")


def _run(database: Database, action: Callable[[Config], None]) -> None:
    from alembic.config import Config

    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
        config.attributes["connection"] = connection
        action(config)


def _scripts() -> Path:
    package = Path(__file__).parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
