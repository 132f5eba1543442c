"""Deliver notices: claim, call and record, as the steps of batches do.

A process may die between the call and its record. The lease then ends, and the notice is sent again
with the same id and payload, so that its receiver can recognise it.
"""

from __future__ import annotations

from uuid import UUID

from worker.domain.backoff import NOTICE_WAITS, notice_wait
from worker.pipeline.context import StepContext
from worker.store import webhook_deliveries
from worker.store.transaction import Transaction
from worker.store.webhook_deliveries import NoticeClaim
from worker.webhooks.client import Delivered, Undelivered, WebhookClient


class NoticeSender:
    """Sends the notices of one process."""

    def __init__(self, context: StepContext, webhooks: WebhookClient) -> None:
        self.context = context
        self.webhooks = webhooks

    def notify(self, notice_id: UUID) -> None:
        """Send a notice once, and record what came of it and when to try again."""
        context = self.context
        began = context.monotonic()
        claim = context.database.run(
            lambda tx: webhook_deliveries.claim_notice(
                tx, notice_id, holder=context.holder, lease=context.policy.lease
            )
        )
        if claim is None:
            return
        outcome = self._send(claim, began)
        context.database.run(lambda tx: self._record(tx, claim, outcome))
        context.messages.room()

    def _send(self, claim: NoticeClaim, began: float) -> Delivered | Undelivered:
        if claim.attempts > len(NOTICE_WAITS) + 1:
            return Undelivered("the processes that sent it died", is_permanent=True)
        return self.webhooks.send(
            claim.url,
            str(claim.id),
            claim.payload,
            may_send=lambda: self.context.monotonic() - began < self.context.policy.lease,
        )

    def _record(
        self, tx: Transaction, claim: NoticeClaim, outcome: Delivered | Undelivered
    ) -> None:
        match outcome:
            case Delivered():
                webhook_deliveries.record_sent(tx, claim)
            case Undelivered(reason, is_permanent):
                wait = None if is_permanent else notice_wait(claim.attempts, self.context.rng)
                if wait is None:
                    webhook_deliveries.record_failed(tx, claim, reason=reason)
                else:
                    webhook_deliveries.record_waiting(tx, claim, reason=reason, wait=wait)
