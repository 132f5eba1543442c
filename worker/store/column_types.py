"""Column types that store one Python type in the form that suits each database."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

Python = TypeVar("Python")


class _OnSqlite(sa.types.TypeDecorator[Python]):
    """A type whose values only SQLite converts; PostgreSQL's driver does so by itself.

    On PostgreSQL no function is called per value, as it would cost more than the value itself.
    """

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        if dialect.name == "postgresql":
            return self.impl_instance.bind_processor(dialect)
        return super().bind_processor(dialect)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        if dialect.name == "postgresql":
            return self.impl_instance.result_processor(dialect, coltype)
        return super().result_processor(dialect, coltype)


class Id(_OnSqlite[UUID]):
    """A UUID: native on PostgreSQL, text with dashes on SQLite."""

    impl = sa.Uuid
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return sa.Uuid() if dialect.name == "postgresql" else sa.String(36)

    def process_bind_param(self, value: UUID | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002 (the base's signature)
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> UUID | None:  # noqa: ARG002 (the base's signature)
        return UUID(value) if isinstance(value, str) else value


class UtcTime(_OnSqlite[datetime]):
    """A time with zone: `timestamptz` on PostgreSQL, text that sorts by time on SQLite."""

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return sa.TIMESTAMP(timezone=True) if dialect.name == "postgresql" else sa.Text()

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002 (the base's signature)
        return None if value is None else time_text(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 (the base's signature)
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if (
            moment is not None and moment.tzinfo is None
        ):  # from plain SQL on SQLite, such as datetime('now')
            return moment.replace(tzinfo=UTC)
        return moment


def time_text(moment: datetime) -> str:
    """Return the form of a time on SQLite, of fixed width, so that its texts sort by time."""
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")


class Json(_OnSqlite[Any]):
    """JSON: `jsonb` on PostgreSQL, text on SQLite.

    Plain SQL can write JSON that cannot be read: on SQLite any text, on PostgreSQL numbers of
    thousands of digits. It is returned as a string, which validation rejects, so that one bad row
    does not stop the others.
    """

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return JSONB(none_as_null=True) if dialect.name == "postgresql" else sa.Text()

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 (the base's signature)
        if value is None:
            return value
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 (the base's signature)
        return None if value is None else read_json(value)


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, or the text where Python cannot read it.

    Databases take numbers of thousands of digits, and thousands of brackets.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
