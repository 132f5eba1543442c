"""Read the version of a database's schema, and check that this worker can use it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from worker.errors import SchemaMismatch
from worker.store.database import Database

REVISION = "0014"  # the migration that this worker needs

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
    if current is None and (elsewhere := _schemas_with_tables(database)):
        raise SchemaMismatch(
            f"the tables are in the schema {', '.join(elsewhere)}, which is not in the search_path "
            "of this role: set it with ALTER ROLE, or add ?options=-csearch_path%3DSCHEMA to the "
            "database's URL"
        )
    if current is None:
        raise SchemaMismatch("the database has no evalworker tables yet: run `evalworker migrate`")
    refuse_newer(current)
    raise SchemaMismatch(
        f"the database is older than this worker (it has {current}, {REVISION} is needed): "
        "run `evalworker migrate`"
    )


def refuse_newer(current: str | None) -> None:
    """Raise `SchemaMismatch` if this revision is later than the one of this worker."""
    if current is not None and current > REVISION:  # revisions are numbered
        raise SchemaMismatch(
            f"the database is newer than this worker (it has {current}, {REVISION} is known here): "
            "install the newer worker, `pip install --upgrade evalworker`"
        )


def check_encoding(database: Database) -> None:
    """Raise `SchemaMismatch` unless the database can store every text."""
    if not database.on_postgresql:
        return
    with database.read() as connection:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise SchemaMismatch(
            f"the database has the encoding {encoding}, which cannot store every text: create a "
            "database WITH ENCODING 'UTF8' TEMPLATE template0"
        )


def _schemas_with_tables(database: Database) -> Sequence[str]:
    """Return the schemas outside the search_path that have the worker's tables."""
    if not database.on_postgresql:
        return []
    with database.read() as connection:
        return connection.scalars(_SCHEMAS, {"name": version_table.name}).all()


_SCHEMAS = sa.text("SELECT schemaname FROM pg_tables WHERE tablename = :name ORDER BY schemaname")
