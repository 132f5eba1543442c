"""Send messages to the actors: after a commit, and never relied on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import dramatiq
import structlog

from worker.pipeline.brokers import SEND_ERRORS, words_of

log = structlog.get_logger("evalworker")


class Messages(Protocol):
    """Sends messages after a commit; the dispatcher sends again what gets lost."""

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None: ...

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None: ...

    def notify(self, notice_id: UUID) -> None: ...

    def room(self) -> None:
        """Wake the dispatcher: a slot at the remote is free, or items wait again."""


DUE_MARGIN = 0.05  # seconds: a message that comes a moment early finds nothing due

SLOW_SECONDS = 1.0  # that a message may take to fail, or else the next ones are not tried
TRY_SECONDS = 5.0  # between two messages that are tried in that case, or as a test
QUIET_SECONDS = 60.0  # without a message, after which one is tried to see whether it is taken
LOG_SECONDS = 60.0  # between two lines about messages that were lost
NO_ROW = UUID(int=0)  # in a message that is only a test

ID_NAMES = {"submit": "batch_id", "poll": "batch_id", "notify": "notice_id"}


@dataclass(frozen=True, slots=True)
class Failing:
    """The broker takes no messages, since when by the sender's clock, and why."""

    since: float
    reason: str


class MessageSender:
    """Sends messages over the broker to the actors of every process. Thread-safe.

    After one that failed slowly, none is tried for a moment, so that nobody waits long for a broker
    that takes none. A message that is not sent is dropped: its row stays due, and the dispatcher
    sends again.
    """

    def __init__(
        self,
        broker: dramatiq.Broker,
        queue_name: str,
        *,
        on_room: Callable[[], None],
        on_lost: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.room = on_room
        self.lost = on_lost
        self.failing: Failing | None = None
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tried_at = monotonic()
        self._try_from = float("-inf")
        self._log_at = float("-inf")
        self._unlogged = 0

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self._send("submit", batch_id, delay)

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self._send("poll", batch_id, delay)

    def notify(self, notice_id: UUID) -> None:
        self._send("notify", notice_id, 0.0)

    def test_if_quiet(self) -> None:
        """Send a message about no row, if none was sent for a while: would the broker take one?"""
        quiet = self._monotonic() - self._tried_at
        if quiet >= (TRY_SECONDS if self.failing else QUIET_SECONDS):
            self._send("submit", NO_ROW, 0.0)

    def _send(self, actor_name: str, row_id: UUID, delay: float) -> None:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=self.queue_name,
            actor_name=actor_name,
            args=(str(row_id),),
            kwargs={},
            options={},
        )
        milliseconds = int((delay + DUE_MARGIN) * 1000) if delay else None
        began = self._tried_at = self._monotonic()
        if began < self._try_from:
            self.lost()
            self._unlogged += 1
            return
        try:
            self.broker.enqueue(message, delay=milliseconds)
        except SEND_ERRORS as error:
            # The row stays due: the dispatcher sends again when the broker is back.
            self.lost()
            self._note_failure(words_of(error), began)
        else:
            self._note_success()

    def _note_failure(self, reason: str, began: float) -> None:
        with self._lock:
            now = self._monotonic()
            if now - began > SLOW_SECONDS:
                self._try_from = now + TRY_SECONDS
            since = self.failing.since if self.failing is not None else now
            self.failing = Failing(since, reason)
            self._unlogged += 1
            if now < self._log_at:
                return
            self._log_at, lost, self._unlogged = now + LOG_SECONDS, self._unlogged, 0
        log.warning("message.lost", messages=lost, reason=reason)

    def _note_success(self) -> None:
        if self.failing is None:
            return
        with self._lock:
            failing, self.failing = self.failing, None
            lost, self._unlogged = self._unlogged, 0
        if failing is not None:
            seconds = round(self._monotonic() - failing.since, 1)
            log.info("messages.sent_again", seconds=seconds, messages_lost=lost)
        self.room()
