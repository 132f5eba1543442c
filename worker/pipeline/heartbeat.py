"""Tell everybody, in a row of this process, that it lives and what it cannot do."""

from __future__ import annotations

import contextlib
import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.pipeline.context import StepContext
from worker.pipeline.loop_errors import LoopErrors
from worker.pipeline.messages import MessageSender
from worker.store import gates, replicas
from worker.store.transaction import Transaction

log = structlog.get_logger("evalworker")

TURN_SECONDS = 1.0
WRITE_SECONDS = 10.0  # between two writes of the row while nothing changes
RELOAD_SECONDS = 10.0  # between two reads of the file of the key
LOG_SECONDS = 60.0  # between two lines about the same trouble


class Heartbeat:
    """One thread of each process."""

    def __init__(self, context: StepContext, messages: MessageSender | None = None) -> None:
        self.context = context
        self.messages = messages
        self._written: tuple[str | None, str | None] = (None, None)
        self._write_at = self._reload_at = self._log_at = float("-inf")
        self._key_was_refused = False
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Take turns until stopped, then delete the row; errors are logged and waited out."""
        outages = self.context.database.outages
        errors = LoopErrors("heartbeat", outages, monotonic=self.context.monotonic)
        while not self._stopping.is_set():
            try:
                self.turn()
            except Exception as error:  # noqa: BLE001 (without it, the process counts as dead)
                errors.report(error)
            self._stopping.wait(TURN_SECONDS)
        self._remove()

    def turn(self) -> None:
        """Look after the key and the broker, and write the row if it is time to."""
        now = self.context.monotonic()
        is_new_key = now >= self._reload_at and self._reload(now)
        if self.messages is not None:
            self.messages.test_if_quiet()
        self._log_key(now)
        troubles = self._troubles()
        if is_new_key or troubles != self._written or now >= self._write_at:
            self.context.database.run(lambda tx: self._write(tx, *troubles, probe=is_new_key))
            self._written, self._write_at = troubles, now + WRITE_SECONDS

    def _reload(self, now: float) -> bool:
        self._reload_at = now + RELOAD_SECONDS
        return self.context.api.key.reload()

    def _troubles(self) -> tuple[str | None, str | None]:
        refusal = self.context.api.key.refusal
        failing = self.messages.failing if self.messages is not None else None
        return refusal.reason if refusal else None, failing.reason if failing else None

    def _write(
        self, tx: Transaction, key_error: str | None, send_error: str | None, *, probe: bool
    ) -> None:
        replicas.record_alive(tx, self.context.holder, key_error=key_error, send_error=send_error)
        if probe:  # work need not wait until the gate opens
            gates.probe_now(tx)

    def _log_key(self, now: float) -> None:
        refusal = self.context.api.key.refusal
        if refusal is not None and now >= self._log_at:
            self._key_was_refused, self._log_at = True, now + LOG_SECONDS
            log.warning(
                "replica.key_refused",
                holder=self.context.holder,
                reason=refusal.reason,
                others_work=self.context.standby.stands_by(),
            )
        elif refusal is None and self._key_was_refused:
            self._key_was_refused = False
            log.info("replica.key_accepted", holder=self.context.holder)

    def _remove(self) -> None:
        with contextlib.suppress(SQLAlchemyError):  # then it expires
            self.context.database.run(lambda tx: replicas.record_ended(tx, self.context.holder))
