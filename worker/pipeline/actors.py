"""The three Dramatiq actors, an id and a call each, and the messages that wake them.

Actors never raise and are never retried by the broker: every outcome is a row, and the dispatcher
sends again what is overdue. A message that is lost, doubled or late changes nothing but delay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

import dramatiq
import structlog

from worker.pipeline.messages import _ID
from worker.pipeline.submit import Steps
from worker.webhooks.deliver import Notices

Around = Callable[[str, UUID], AbstractContextManager[None]]

log = structlog.get_logger("evalworker")

STEP_LIMIT_MS = 120_000  # far over what the timeouts of database and API add up to


def _plainly(_name: str, _batch_id: UUID) -> AbstractContextManager[None]:
    return nullcontext()


def declare_actors(
    broker: dramatiq.Broker,
    queue_name: str,
    steps: Steps,
    notices: Notices,
    *,
    around: Around = _plainly,
) -> None:
    """Makes the steps callable by message; those of batches in a context by `around`."""
    actors = {
        "submit": _never_raising("submit", steps.submit, steps.record_surprise, around),
        "poll": _never_raising("poll", steps.poll, steps.record_surprise, around),
        "notify": _never_raising("notify", notices.notify),
    }
    for name, actor in actors.items():
        declare = dramatiq.actor(
            actor_name=name,
            queue_name=queue_name,
            broker=broker,
            max_retries=0,
            time_limit=STEP_LIMIT_MS,
        )
        declare(actor)


def _never_raising(
    name: str,
    step: Callable[[UUID], None],
    record: Callable[[UUID, Exception], None] = lambda _id, _error: None,
    around: Around = _plainly,
) -> Callable[[str], None]:
    """A step that raised is logged, and recorded; its lease brings it up again."""

    def actor(row_id: str) -> None:
        try:
            with around(name, UUID(row_id)):
                step(UUID(row_id))
        except Exception as error:
            log.exception("step.surprised", step=name, **{_ID[name]: row_id})
            record(UUID(row_id), error)

    return actor
