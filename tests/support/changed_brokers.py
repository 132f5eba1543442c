"""What a test changes in how a worker's process uses its broker.

`started(..., prepare=[...])` runs these functions in the process before the command.
"""

from __future__ import annotations

import time
from typing import Any

from worker.pipeline import brokers
from worker.remote import JudgeAPI


def prefetch_two_delayed_messages() -> None:
    brokers.DELAY_PREFETCH = 2


def hand_back_no_messages() -> None:
    """Let no maintenance of Redis return the messages of dead consumers."""
    brokers.REDIS_MAINTENANCE_CHANCE = 0


def record_submissions_slowly() -> None:
    submit = JudgeAPI.submit

    def submit_and_wait(*args: Any, **kwargs: Any) -> Any:
        outcome = submit(*args, **kwargs)
        time.sleep(1)
        return outcome

    JudgeAPI.submit = submit_and_wait  # type: ignore[method-assign]
