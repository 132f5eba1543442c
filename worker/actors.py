"""The three Dramatiq actors, an id and a call each, and the messages that wake them.

Actors never raise and are never retried by the broker: every outcome is a row, and the dispatcher
sends again what is overdue. A message that is lost, doubled or late changes nothing but delay.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING
from uuid import UUID

import dramatiq
import structlog

from worker.brokers import SEND_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from worker.notices import Notices
    from worker.steps import Steps

    Around = Callable[[str, UUID], AbstractContextManager[None]]

log = structlog.get_logger("evalworker")

STEP_LIMIT_MS = 120_000  # far over what the timeouts of database and API add up to
DUE_MARGIN = 0.05  # seconds: a message that comes a moment early finds nothing due


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


_ID = {"submit": "batch_id", "poll": "batch_id", "notify": "notice_id"}


class Mailbox:
    """Sends messages to the actors, of this process and of the others."""

    def __init__(
        self,
        broker: dramatiq.Broker,
        queue_name: str,
        *,
        on_room: Callable[[], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.room = on_room
        self.lost = on_lost

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self._send("submit", batch_id, delay)

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self._send("poll", batch_id, delay)

    def notify(self, notice_id: UUID) -> None:
        self._send("notify", notice_id, 0.0)

    def _send(self, actor_name: str, row_id: UUID, delay: float) -> None:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=self.queue_name,
            actor_name=actor_name,
            args=(str(row_id),),
            kwargs={},
            options={},
        )
        milliseconds = int((delay + DUE_MARGIN) * 1000) if delay else None
        try:
            self.broker.enqueue(message, delay=milliseconds)
        except SEND_ERRORS as error:
            # The row is due all the same: the dispatcher sends again when the broker is back.
            self.lost()
            ids = {_ID[actor_name]: str(row_id)}
            log.warning("message.lost", actor=actor_name, **ids, reason=str(error))
