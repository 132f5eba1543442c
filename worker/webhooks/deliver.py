"""What the actor `notify` does: claim, call, record, as `steps` does for batches.

A process may die between the call and its record. The lease ends, and the notice is sent again,
under the same id and with the same words, so that its receiver can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from uuid import UUID

from worker.domain.backoff import NOTICE_WAITS, notice_wait
from worker.remote import clock
from worker.store import webhook_deliveries
from worker.store.database import Database, Transaction
from worker.store.webhook_deliveries import Held
from worker.webhooks.client import Delivered, Undelivered, WebhookClient


class Notices:
    """The notices of one process; `holder` names it in the leases."""

    def __init__(
        self,
        database: Database,
        webhooks: WebhookClient,
        *,
        holder: str,
        lease: float,
        rng: Random,
        on_room: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = clock,
    ) -> None:
        self.database = database
        self.webhooks = webhooks
        self.holder = holder
        self.lease = lease
        self.rng = rng
        self.on_room = on_room
        self.monotonic = monotonic

    def notify(self, notice_id: UUID) -> None:
        """Sends a notice once; its row says what came of it, and when to try again."""
        began = self.monotonic()
        held = self.database.run(
            lambda tx: webhook_deliveries.claim(tx, notice_id, holder=self.holder, lease=self.lease)
        )
        if held is None:
            return
        outcome = self._send(held, began)
        self.database.run(lambda tx: self._record(tx, held, outcome))
        self.on_room()

    def _send(self, held: Held, began: float) -> Delivered | Undelivered:
        if held.attempts > len(NOTICE_WAITS) + 1:
            return Undelivered("the processes that sent it died", is_permanent=True)
        return self.webhooks.send(
            held.url,
            str(held.id),
            held.payload,
            may_send=lambda: self.monotonic() - began < self.lease,
        )

    def _record(self, tx: Transaction, held: Held, outcome: Delivered | Undelivered) -> None:
        match outcome:
            case Delivered():
                webhook_deliveries.record_sent(tx, held)
            case Undelivered(reason, is_permanent):
                wait = None if is_permanent else notice_wait(held.attempts, self.rng)
                if wait is None:
                    webhook_deliveries.record_failed(tx, held, reason=reason)
                else:
                    webhook_deliveries.record_waiting(tx, held, reason=reason, wait=wait)
