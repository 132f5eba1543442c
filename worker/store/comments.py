"""Copy the comments of tables, views and columns into PostgreSQL, where `\\d+` shows them."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from worker.store.schema_version import version_table
from worker.store.tables import metadata
from worker.store.views import view_metadata


def write_comments(connection: sa.Connection) -> None:
    """Write the comments that are missing or outdated; SQLite has none.

    Only these, because a comment locks its table against VACUUM. Tables and columns that this
    database does not have yet are skipped.
    """
    if connection.dialect.name != "postgresql":
        return
    comments = {(name, column): text for name, column, text in all_comments()}
    names = sorted({name for name, _ in comments})
    for name, column, present in connection.execute(_PRESENT, {"names": names}).all():
        text = comments.get((name, column))
        if text is None or text == present:
            continue
        kind = "VIEW" if name in view_metadata.tables else "TABLE"
        target = f"COLUMN {name}.{column}" if column else f"{kind} {name}"
        connection.execute(sa.text(f"COMMENT ON {target} IS {_literal(text)}"))


def all_comments() -> Iterator[tuple[str, str, str | None]]:
    """Yield the name of a table or view, of its column ("" for the whole), and the comment."""
    for table in (*metadata.tables.values(), *view_metadata.tables.values(), version_table):
        yield table.name, "", table.comment
        for column in table.columns:
            yield table.name, column.name, column.comment


_PRESENT = sa.text("""
    SELECT c.relname, '' AS attname, obj_description(c.oid, 'pg_class')
    FROM pg_class c WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid)
    UNION ALL
    SELECT c.relname, a.attname, col_description(c.oid, a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid)
      AND a.attnum > 0 AND NOT a.attisdropped
""")


def _literal(text: str) -> str:
    """Quote for SQL within `sa.text`, where a colon would begin a parameter."""
    return "'" + text.replace("'", "''").replace(":", r"\:") + "'"
