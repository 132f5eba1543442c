"""The comments of `worker.store.views` in PostgreSQL, for people who look with its own tools."""

from __future__ import annotations

import sqlalchemy as sa

from worker.store.views import TABLES, VIEWS


def write_comments(connection: sa.Connection) -> None:
    """Says at every relation and column what it means, where that is not said yet.

    SQLite has no comments. Looked at before it is written: a comment locks its table against
    VACUUM and the like. What this database does not have, as it is older, is passed over.
    """
    if connection.dialect.name != "postgresql":
        return
    relations = {**TABLES, **VIEWS}
    for relation, column, said in connection.execute(_COMMENTS, {"names": list(relations)}).all():
        text = relations[relation].get(column)
        if text is None or text == said:
            continue
        kind = "VIEW" if relation in VIEWS else "TABLE"
        what = f"COLUMN {relation}.{column}" if column else f"{kind} {relation}"
        connection.execute(sa.text(f"COMMENT ON {what} IS {_literal(text)}"))


_COMMENTS = sa.text("""
    SELECT c.relname, '' AS attname, obj_description(c.oid, 'pg_class')
    FROM pg_class c WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid)
    UNION ALL
    SELECT c.relname, a.attname, col_description(c.oid, a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid)
      AND a.attnum > 0 AND NOT a.attisdropped
""")


def _literal(text: str) -> str:
    """As a SQL literal within `sa.text`, to which a colon means a parameter."""
    return "'" + text.replace("'", "''").replace(":", r"\:") + "'"
