"""Migrate a database to this worker's schema, and create PostgreSQL's roles.

This module loads Alembic, so only the commands that migrate import it.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from worker.errors import ConfigurationError, EvalWorkerError, NotPossible, SchemaMismatch
from worker.store import rollup_backfill
from worker.store.database import Database
from worker.store.outage import first_line
from worker.store.postgres_session import sqlstate_of
from worker.store.schema_version import current_revision, refuse_newer
from worker.store.scripts import read_script, scripts_folder

DUPLICATE_TABLE = "42P07"  # PostgreSQL's SQLSTATE


def upgrade(database: Database, revision: str = "head") -> str:
    """Migrate up, in one transaction; return the revision that the database then has.

    What has to read many rows follows in small transactions, which keep no worker waiting.
    Raises `SchemaMismatch` where the database is newer than this worker.
    """
    refuse_newer(current_revision(database))
    _run(database, lambda config: command.upgrade(config, revision))
    rollup_backfill.fill(database)
    return current_revision(database) or ""


def migrate_to(database: Database, revision: str) -> str:
    """Migrate up or down to a revision that an older worker needs; return it.

    What only later revisions store is lost on the way down. Raises `NotPossible` for a revision
    that this worker does not know, and `SchemaMismatch` where the database is newer than it.
    """
    current = current_revision(database)
    refuse_newer(current)
    known = sorted(path.name[:4] for path in (scripts_folder() / "versions").glob("[0-9]*.py"))
    if revision not in known:
        raise NotPossible(f"there is no revision {revision}: they are {known[0]} to {known[-1]}")
    step = command.downgrade if current is not None and current > revision else command.upgrade
    _run(database, lambda config: step(config, revision))
    return revision


def downgrade(database: Database, revision: str = "base") -> None:
    """Migrate down, in one transaction. Down to "base", this drops all of the worker's tables."""
    _run(database, lambda config: command.downgrade(config, revision))


def _run(database: Database, action: Callable[[Config], None]) -> None:
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            action(config)
        except sa.exc.ProgrammingError as error:
            if sqlstate_of(error.orig) != DUPLICATE_TABLE:
                raise
            raise SchemaMismatch(
                f"{first_line(error)}, although the schema is older: was a backup restored over "
                "newer tables? Restore it into an empty database, as docs/backup.md says"
            ) from error


def grant_roles(database: Database) -> None:
    """Create PostgreSQL's roles of least privilege, or update them."""
    if not database.on_postgresql:
        raise ConfigurationError(
            ["SQLite has no roles: whoever can open the database file can do everything"]
        )
    try:
        with database.engine.begin() as connection:
            # Without parameters: the script has many statements, and its '%' are SQL's own.
            unparsed = connection.execution_options(no_parameters=True)
            unparsed.exec_driver_sql(read_script("roles.sql"))
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise EvalWorkerError(
            f"the roles could not be created: {reason}; run this as the owner of the tables, with "
            "CREATEROLE unless the roles exist already"
        ) from error
