"""Tell which schema a database has, and whether this worker can use it."""

from __future__ import annotations

import sqlalchemy as sa

from worker.errors import SchemaMismatch
from worker.store.database import Database

REVISION = "0004"  # of the migrations, to which all of this belongs


VERSION_TABLE = sa.table("eval_alembic_version", sa.column("version_num", sa.Text))


def current_revision(database: Database) -> str | None:
    """The revision of the database; None where the worker's tables are not there."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table(VERSION_TABLE.name):
            return None
        return connection.scalar(sa.select(VERSION_TABLE.c.version_num))


def check_schema(database: Database) -> None:
    """Raises `SchemaMismatch` unless the database has exactly this worker's schema."""
    current = current_revision(database)
    if current == REVISION:
        return
    if current is None:
        raise SchemaMismatch("the database has no evalworker tables yet: run `evalworker migrate`")
    if current < REVISION:  # they are numbered
        raise SchemaMismatch(
            f"the database is older than this worker (it has {current}, {REVISION} is needed): "
            "run `evalworker migrate`"
        )
    raise SchemaMismatch(
        f"the database is newer than this worker (it has {current}, {REVISION} is known here): "
        "install the newer worker, `pip install --upgrade evalworker`"
    )
