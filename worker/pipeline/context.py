"""Hold what the steps of one process share: its connections, its settings and its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from worker.domain.polling import Durations
from worker.pipeline.key_standby import KeyStandby
from worker.pipeline.messages import Messages
from worker.remote import JudgeAPI, clock
from worker.store import leases
from worker.store.database import Database
from worker.store.outage import is_unavailable

HAND_ON_SECONDS = 0.5  # before a message that was left to the others comes up again


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that steps follow; times are in seconds."""

    lease: float
    max_in_flight: int  # batches
    batch_size: int  # items
    linger: float  # how long a part-filled batch waits for more items
    poll_min: float
    poll_max: float
    batch_timeout: float
    max_item_attempts: int
    tag_batches: bool  # submit with a tag of the batch's own, by which it can be found again
    resubmit_unlisted: bool  # where there is no list: send again (True), or wait for a person


@dataclass(slots=True)
class StepContext:
    """One process of the worker, as its steps see it."""

    database: Database
    api: JudgeAPI
    messages: Messages
    policy: Policy
    holder: str  # the name of this process in the leases
    rng: Random
    durations: Durations = field(default_factory=Durations)
    monotonic: Callable[[], float] = clock
    standby: KeyStandby = field(init=False)

    def __post_init__(self) -> None:
        self.standby = KeyStandby(
            self.database, self.api, self.holder, self.rng, monotonic=self.monotonic
        )

    def leaves_to_others(self, send: Callable[..., None], batch_id: UUID) -> bool:
        """Return whether a step is to do nothing; its message is then handed on by `send`.

        Not if the batch is not due any more, as another process is at it.
        """
        if not self.standby.leaves_work():
            return False
        if self.database.run(lambda tx: leases.is_due(tx, batch_id)):
            send(batch_id, delay=HAND_ON_SECONDS)
        return True

    def record_surprise(self, batch_id: UUID, error: Exception) -> None:
        """Record that a step raised an exception; its batch comes up again when the lease ends.

        Whether a request was sent is not known here, so the state stays as the claim left it. What
        the database could not do (full, shut down, out of locks) is no fault of the batch.
        """
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        counts = not is_unavailable(error)
        if not counts:
            self.database.outages.report(error, "step")
        try:
            self.database.run(
                lambda tx: leases.note_surprise(
                    tx, batch_id, holder=self.holder, reason=reason, counts=counts
                )
            )
        except SQLAlchemyError as failure:
            self.database.outages.report(failure, "step")
