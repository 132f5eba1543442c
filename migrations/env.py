"""Run the migrations in one transaction, for `alembic` and for `evalworker migrate`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from worker.config import load_settings
from worker.store import rollup_backfill
from worker.store.comments import write_comments
from worker.store.database import Database, sqlite_file
from worker.store.private_file import create_private_file
from worker.store.tables import metadata

VERSION_TABLE = "eval_alembic_version"  # the producer may have an `alembic_version` of its own
LOCK = 0x6576616C  # "eval": containers that start together migrate one after the other


def run(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    context.run_migrations()
    write_comments(connection)


def main() -> None:
    if context.is_offline_mode():
        context.configure(
            url=load_settings().sqlalchemy_url, version_table=VERSION_TABLE, literal_binds=True
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    given: sa.Connection | None = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    url = load_settings().sqlalchemy_url
    if (file := sqlite_file(url)) is not None:
        create_private_file(file)
    database = Database(url)
    try:
        with database.engine.begin() as connection:
            run(connection)
        rollup_backfill.fill(database)
    finally:
        database.close()


main()
