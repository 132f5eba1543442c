"""Migrated PostgreSQL databases, each for one test at a time: to empty one is faster than a copy.

A database is used again only if its test changed nothing but rows, and not many of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg

from worker.store.tables import metadata

if TYPE_CHECKING:
    from tests.support.servers import PostgresServer

MAX_BYTES = 2_000_000  # of the tables; beyond that, dead rows would slow the next test down

# As `DROP DATABASE … WITH (FORCE)` does; but this waits until they have ended.
_END_OTHER_SESSIONS = """
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_FIRST_ID = 16384  # of an object that is not PostgreSQL's own
# A copy keeps the ids of its template, so an object that was made again counts as changed.
_STRUCTURE = f"""
SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
    SELECT (c.oid, relname, relnamespace, relkind, relowner, relacl, reloptions, relrowsecurity,
        relforcerowsecurity, relpersistence,
        -- changed by ANALYZE, and with them the plans; a sequence always has the same
        reltuples)::text AS line
        FROM pg_class c WHERE oid >= {_FIRST_ID}
    UNION ALL SELECT a::text FROM pg_attribute a WHERE attrelid >= {_FIRST_ID}
    UNION ALL SELECT d::text FROM pg_attrdef d
    UNION ALL SELECT i::text FROM pg_index i WHERE indexrelid >= {_FIRST_ID}
    UNION ALL SELECT c::text FROM pg_constraint c WHERE oid >= {_FIRST_ID}
    UNION ALL SELECT t::text FROM pg_trigger t
    UNION ALL SELECT e::text FROM pg_event_trigger e
    UNION ALL SELECT p::text FROM pg_policy p
    UNION ALL SELECT r::text FROM pg_rewrite r WHERE oid >= {_FIRST_ID}
    UNION ALL SELECT p::text FROM pg_proc p WHERE oid >= {_FIRST_ID}
    UNION ALL SELECT t::text FROM pg_type t WHERE oid >= {_FIRST_ID}
    UNION ALL SELECT e::text FROM pg_extension e
    UNION ALL SELECT p::text FROM pg_publication p
    UNION ALL SELECT a::text FROM pg_default_acl a
    UNION ALL SELECT (nspname, nspowner, nspacl)::text FROM pg_namespace
        WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT s::text FROM pg_db_role_setting s, pg_database d
        WHERE s.setdatabase = d.oid AND d.datname = current_database()
    UNION ALL SELECT (datdba, datallowconn, datconnlimit, datacl)::text FROM pg_database
        WHERE datname = current_database()
    UNION ALL SELECT version_num FROM eval_alembic_version
) changes
"""
_TABLES = [table.name for table in reversed(metadata.sorted_tables)]
_SIZE = f"SELECT sum(pg_relation_size(name)) FROM unnest(ARRAY{_TABLES}) name"
_EMPTY = "".join(f"DELETE FROM {name};" for name in _TABLES) + (
    "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
)


class MigratedDatabases:
    """The databases of one process, which runs one test after the other."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self.server = server
        self.template = template
        self._unused: list[str] = []
        self._structure: str | None = None

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Lend an empty migrated database, by its URL."""
        name = self._unused.pop() if self._unused else self._create()
        yield self.server.url(name)
        # A pooler would give the next test connections that are ended here.
        if name not in self.server.pooled and self._is_emptied(name):
            self._unused.append(name)
        else:
            self.server.drop(name)

    def _create(self) -> str:
        name = self.server.create(self.template)
        if self._structure is None:
            with self._connected(name) as connection:
                self._structure = _value(connection, _STRUCTURE)
        return name

    def _is_emptied(self, name: str) -> bool:
        """Delete all rows; False where the test has left something else, or too much."""
        try:
            with self._connected(name) as connection:
                connection.execute(_END_OTHER_SESSIONS)
                if _value(connection, _STRUCTURE) != self._structure:
                    return False
                if _value(connection, _SIZE) > MAX_BYTES:
                    return False
                connection.execute(_EMPTY)
        except psycopg.Error:
            return False
        return True

    def _connected(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.server.url(name), autocommit=True)


def _value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None
