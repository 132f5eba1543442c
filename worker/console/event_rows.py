"""Prepare events for pages: who did it, and the details as texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from worker.events import Event
from worker.store.batch_queries import EventRow


@dataclass(frozen=True, slots=True)
class EventView:
    """A row of `eval_events` as pages show it; `actor` is None if no person caused it."""

    id: int
    at: datetime
    event: str
    description: str
    actor: str | None
    job_id: UUID | None
    item_index: int | None
    batch_id: UUID | None
    details: Sequence[tuple[str, str]]


_DESCRIPTIONS: Mapping[str, str] = {event.value: event.description for event in Event}


def event_views(rows: Iterable[EventRow]) -> list[EventView]:
    return [_view(row) for row in rows]


def _view(row: EventRow) -> EventView:
    detail = dict(row.detail) if isinstance(row.detail, Mapping) else {}
    actor = detail.pop("actor", None)
    return EventView(
        row.id,
        row.at,
        row.event,
        _DESCRIPTIONS.get(row.event, ""),
        actor if isinstance(actor, str) else None,
        row.job_id,
        row.item_index,
        row.batch_id,
        [(name, _text(value)) for name, value in detail.items()],
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
