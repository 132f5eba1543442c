"""Read the version of a database's schema, and check that this worker can use it."""

from __future__ import annotations

import sqlalchemy as sa

from worker.errors import SchemaMismatch
from worker.store.database import Database

REVISION = "0010"  # the migration that this worker needs

version_table = sa.Table(
    "eval_alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.Text, comment="The revision."),
    comment="The migration that this database has; the worker starts on its own schema only.",
)


def current_revision(database: Database) -> str | None:
    """Return the revision of the database, or None if it lacks the worker's tables."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table(version_table.name):
            return None
        return connection.scalar(sa.select(version_table.c.version_num))


def check_schema(database: Database) -> None:
    """Raise `SchemaMismatch` unless the database has exactly this worker's schema."""
    current = current_revision(database)
    if current == REVISION:
        return
    if current is None:
        raise SchemaMismatch("the database has no evalworker tables yet: run `evalworker migrate`")
    if current < REVISION:  # revisions are numbered
        raise SchemaMismatch(
            f"the database is older than this worker (it has {current}, {REVISION} is needed): "
            "run `evalworker migrate`"
        )
    raise SchemaMismatch(
        f"the database is newer than this worker (it has {current}, {REVISION} is known here): "
        "install the newer worker, `pip install --upgrade evalworker`"
    )
