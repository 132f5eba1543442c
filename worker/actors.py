"""The two Dramatiq actors, an id and a call each, and the messages that wake them.

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
    *,
    around: Around = _plainly,
) -> None:
    """Makes the steps callable by message; each runs in a context that `around` gives."""
    for name, step in (("submit", steps.submit), ("poll", steps.poll)):
        declare = dramatiq.actor(
            actor_name=name,
            queue_name=queue_name,
            broker=broker,
            max_retries=0,
            time_limit=STEP_LIMIT_MS,
        )
        declare(_never_raising(name, step, steps, around))


def _never_raising(
    name: str, step: Callable[[UUID], None], steps: Steps, around: Around = _plainly
) -> Callable[[str], None]:
    def actor(batch_id: str) -> None:
        try:
            with around(name, UUID(batch_id)):
                step(UUID(batch_id))
        except Exception as error:
            log.exception("step.surprised", step=name, batch_id=batch_id)
            steps.record_surprise(UUID(batch_id), error)

    return actor


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

    def _send(self, actor_name: str, batch_id: UUID, delay: float) -> None:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=self.queue_name,
            actor_name=actor_name,
            args=(str(batch_id),),
            kwargs={},
            options={},
        )
        milliseconds = int((delay + DUE_MARGIN) * 1000) if delay else None
        try:
            self.broker.enqueue(message, delay=milliseconds)
        except SEND_ERRORS as error:
            # The row is due all the same: the dispatcher sends again when the broker is back.
            self.lost()
            log.warning("message.lost", actor=actor_name, batch_id=str(batch_id), reason=str(error))
