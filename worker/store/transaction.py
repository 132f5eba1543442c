"""A transaction as the store sees it: statements, and the events that are recorded with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql, sqlite

from worker.events import CountedEvent, Event, RecordedEvent
from worker.store.sql_functions import now
from worker.store.tables import events

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningUpdate

log = structlog.get_logger("evalworker")


class Transaction:
    """An open transaction, with the events that it stores and publishes once it is committed.

    `actor` is the person on whose behalf it runs; every event of the transaction names them.
    """

    def __init__(self, connection: sa.Connection, actor: str | None = None) -> None:
        self.connection = connection
        self.actor = actor
        self.execute = connection.execute
        self.scalar = connection.scalar
        self.scalars = connection.scalars
        self.on_postgresql = connection.dialect.name == "postgresql"
        self.recorded: list[RecordedEvent] = []
        self.counted: list[RecordedEvent] = []
        self._unwritten: list[RecordedEvent] = []

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """Build an insert that has the database's own `ON CONFLICT` clauses."""
        return postgresql.insert(table) if self.on_postgresql else sqlite.insert(table)

    def record_event(
        self,
        event: Event,
        *,
        job_id: UUID | None = None,
        item_index: int | None = None,
        batch_id: UUID | None = None,
        **detail: Any,
    ) -> None:
        """Record an event, which is stored with the transaction or not at all."""
        entry = RecordedEvent(event, job_id, item_index, batch_id, self._known(detail))
        self.recorded.append(entry)
        self._unwritten.append(entry)

    def execute_recording(
        self,
        statement: sa.Select[Any] | ReturningUpdate[Any],
        given: Mapping[str, Any],
        event: Event,
        *,
        batch_id: UUID,
        **detail: Any,
    ) -> Sequence[sa.Row[Any]]:
        """Run a statement and record an event of a batch; return the statement's rows.

        An UPDATE that changes no row records nothing. PostgreSQL does both in one statement.
        """
        entry = RecordedEvent(event, batch_id=batch_id, detail=self._known(detail))
        if self.on_postgresql:
            own = {"event_event": event, "event_batch_id": batch_id, "event_detail": entry.detail}
            rows = self.execute(_build_recording(statement), {**given, **own}).all()
        else:
            rows = self.execute(statement, given).all()
        if rows or statement.is_select:
            self.recorded.append(entry)
            if not self.on_postgresql:
                self._unwritten.append(entry)
        return rows

    def _known(self, detail: Mapping[str, Any]) -> dict[str, Any] | None:
        all_of_it = {**detail, "actor": self.actor}
        return {key: value for key, value in all_of_it.items() if value is not None} or None

    def count(self, event: CountedEvent) -> None:
        """Count an event that only observers hear of."""
        self.counted.append(RecordedEvent(event))

    def write_events(self) -> None:
        """Insert the recorded events that no statement has stored into `eval_events`."""
        rows = [entry._asdict() for entry in self._unwritten]
        if rows:
            # A single row runs as a plain statement, which costs half as much as a list.
            self.execute(_INSERT_EVENTS, rows if len(rows) > 1 else rows[0])

    def log_events(self) -> None:
        """Log one line per recorded event. Call it after the commit.

        Where nobody has configured structlog, it would print to the program's standard output.
        """
        if not structlog.is_configured():
            return
        for entry in self.recorded:
            ids = {
                key: str(value) if isinstance(value, UUID) else value
                for key in ("job_id", "item_index", "batch_id")
                if (value := getattr(entry, key)) is not None
            }
            log.log(entry.level, entry.event.value, **ids, **(entry.detail or {}))


# Inline: the ids of these rows are not needed, so PostgreSQL need not return them.
_INSERT_EVENTS = sa.insert(events).values(at=now()).inline()


@cache
def _build_recording(statement: sa.Select[Any] | ReturningUpdate[Any]) -> sa.Select[Any]:
    """Build one statement, for PostgreSQL, of another one and the insert of an event."""
    event = sa.select(now(), *_EVENT_PARAMETERS)
    if isinstance(statement, sa.Select):
        return statement.add_cte(
            sa.insert(events).from_select(_EVENT_COLUMNS, event).cte("recorded")
        )
    changed = statement.cte("changed")
    recorded = sa.insert(events).from_select(_EVENT_COLUMNS, event.select_from(changed))
    return sa.select(changed).add_cte(recorded.cte("recorded"))


_EVENT_COLUMNS = ("at", "event", "batch_id", "detail")
_EVENT_PARAMETERS = [
    sa.bindparam(f"event_{name}", type_=events.c[name].type) for name in _EVENT_COLUMNS[1:]
]
