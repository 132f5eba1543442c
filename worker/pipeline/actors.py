"""Declare the three Dramatiq actors: each takes an id and makes one call.

Actors never raise, and the broker never retries them: every outcome is a row, and the dispatcher
sends again what is overdue. A message that is lost, doubled or late changes nothing but delay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

import dramatiq
import structlog

from worker.pipeline.messages import ID_NAMES
from worker.store.outage import is_unavailable

log = structlog.get_logger("evalworker")

STEP_LIMIT_MS = 120_000  # far above the sum of the timeouts of the database and the API

Step = Callable[[UUID], None]
OnSurprise = Callable[[UUID, Exception], None]
Around = Callable[[str, UUID], AbstractContextManager[None]]


def declare_actors(
    broker: dramatiq.Broker,
    queue_name: str,
    *,
    submit: Step,
    poll: Step,
    notify: Step,
    on_surprise: OnSurprise,
    around: Around = lambda _name, _batch_id: nullcontext(),
) -> None:
    """Make the steps callable by message.

    `on_surprise` records that a step of a batch raised; such steps run in a context of `around`.
    """
    actors = {
        "submit": _guard("submit", submit, on_surprise, around),
        "poll": _guard("poll", poll, on_surprise, around),
        "notify": _guard("notify", notify),
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


def _guard(
    name: str,
    step: Step,
    on_surprise: OnSurprise = lambda _id, _error: None,
    around: Around = lambda _name, _id: nullcontext(),
) -> Callable[[str], None]:
    """Build an actor that logs and records what its step raises; the lease brings it up again."""

    def actor(row_id: str) -> None:
        try:
            with around(name, UUID(row_id)):
                step(UUID(row_id))
        except Exception as error:
            if not is_unavailable(error):
                log.exception("step.surprised", step=name, **{ID_NAMES[name]: row_id})
            on_surprise(UUID(row_id), error)

    return actor
