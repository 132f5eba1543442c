"""Send messages to the actors: after a commit, and never relied on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import dramatiq
import structlog

from worker.pipeline.brokers import SEND_ERRORS

log = structlog.get_logger("evalworker")


class Messages(Protocol):
    """Sends messages after a commit; the dispatcher sends again what gets lost."""

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None: ...

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None: ...

    def notify(self, notice_id: UUID) -> None: ...

    def room(self) -> None:
        """Wake the dispatcher: a slot at the remote is free, or items wait again."""


DUE_MARGIN = 0.05  # seconds: a message that comes a moment early finds nothing due

ID_NAMES = {"submit": "batch_id", "poll": "batch_id", "notify": "notice_id"}


class MessageSender:
    """Sends messages over the broker to the actors of every process."""

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
            # The row stays due: the dispatcher sends again when the broker is back.
            self.lost()
            ids = {ID_NAMES[actor_name]: str(row_id)}
            log.warning("message.lost", actor=actor_name, **ids, reason=str(error))
