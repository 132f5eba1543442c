"""Deliver notices: claim, call and record, as the steps of batches do.

A process may die between the call and its record. The lease then ends, and the notice is sent again
with the same id and payload, so that its receiver can recognise it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from uuid import UUID

from worker.domain.backoff import NOTICE_WAITS, notice_wait
from worker.remote import clock
from worker.store import webhook_deliveries
from worker.store.database import Database, Transaction
from worker.store.webhook_deliveries import NoticeClaim
from worker.webhooks.client import Delivered, Undelivered, WebhookClient


class NoticeSender:
    """Sends the notices of one process; `holder` names it in the leases."""

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
        """Send a notice once, and record what came of it and when to try again."""
        began = self.monotonic()
        claim = self.database.run(
            lambda tx: webhook_deliveries.claim_notice(
                tx, notice_id, holder=self.holder, lease=self.lease
            )
        )
        if claim is None:
            return
        outcome = self._send(claim, began)
        self.database.run(lambda tx: self._record(tx, claim, outcome))
        self.on_room()

    def _send(self, claim: NoticeClaim, began: float) -> Delivered | Undelivered:
        if claim.attempts > len(NOTICE_WAITS) + 1:
            return Undelivered("the processes that sent it died", is_permanent=True)
        return self.webhooks.send(
            claim.url,
            str(claim.id),
            claim.payload,
            may_send=lambda: self.monotonic() - began < self.lease,
        )

    def _record(
        self, tx: Transaction, claim: NoticeClaim, outcome: Delivered | Undelivered
    ) -> None:
        match outcome:
            case Delivered():
                webhook_deliveries.record_sent(tx, claim)
            case Undelivered(reason, is_permanent):
                wait = None if is_permanent else notice_wait(claim.attempts, self.rng)
                if wait is None:
                    webhook_deliveries.record_failed(tx, claim, reason=reason)
                else:
                    webhook_deliveries.record_waiting(tx, claim, reason=reason, wait=wait)
