"""Migrate the database."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from worker.cli.context import AsJson, configure, out, print_json
from worker.config import Settings
from worker.pipeline.brokers import grant_queue
from worker.store.database import open_database
from worker.store.migrate import grant_roles, migrate_to, upgrade
from worker.store.schema_version import check_encoding, current_revision


def migrate(
    roles: Annotated[
        bool,
        typer.Option("--roles", help="Also create or update least-privilege PostgreSQL roles."),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION",
            help="Upgrade or downgrade to this revision. A downgrade, for an older worker, deletes "
            "what only later revisions store: make a backup first.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    if to is not None and roles:
        raise typer.BadParameter("--roles needs the newest revision, so it excludes --to")
    settings = configure()
    revision = migrate_database(settings, to)
    if roles:
        with contextlib.closing(open_database(settings)) as database:
            grant_roles(database)
        grant_queue(settings.broker_url)
    if as_json:
        print_json({"revision": revision, "roles": roles})
    else:
        updated = ", and its roles are up to date" if roles else ""
        out.print(f"the database has schema {revision}{updated}")


def migrate_database(settings: Settings, revision: str | None = None) -> str:
    """Migrate the configured database, by default to the newest revision, and return that."""
    with contextlib.closing(open_database(settings, create=True)) as database:
        if current_revision(database) is None:
            check_encoding(database)
        return upgrade(database) if revision is None else migrate_to(database, revision)
