"""What makes a worker's process stop itself (SIGSTOP), once, at a point that a test names.

`started(..., prepare=[...])` runs these functions in the process before the command.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from worker.remote import JudgeAPI
from worker.store.database import Database


class _SelfStop:
    """Stops the process while none of its transactions is open.

    On SQLite no other process could write while one is.
    """

    def __init__(self) -> None:
        self._between_transactions = threading.RLock()
        self._stopped = False
        run = Database.run

        def run_guarded(database: Database, work: Callable[..., Any]) -> Any:
            with self._between_transactions:
                return run(database, work)

        Database.run = run_guarded  # type: ignore[assignment]

    def __call__(self) -> None:
        with self._between_transactions:
            if not self._stopped:
                self._stopped = True
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.1)  # the signal may reach this thread a moment after the others


def stop_between_claim_and_post() -> None:
    _call_before(JudgeAPI, JudgeAPI.submit.__name__, _SelfStop())


def stop_at_the_first_byte_of_the_post() -> None:
    """Stop where the client asks for the last time whether it may send."""
    stop, submit = _SelfStop(), JudgeAPI.submit

    def submit_late(*args: Any, may_send: Callable[[], bool], **kwargs: Any) -> Any:
        def stop_and_ask() -> bool:
            stop()
            return may_send()

        return submit(*args, may_send=stop_and_ask, **kwargs)

    JudgeAPI.submit = submit_late  # type: ignore[assignment, method-assign]


def stop_between_post_and_record() -> None:
    _call_after(JudgeAPI, JudgeAPI.submit.__name__, _SelfStop())


def stop_between_results_and_record() -> None:
    _call_after(JudgeAPI, JudgeAPI.status.__name__, _SelfStop())


def stop_in_the_planning_transaction() -> None:
    _stop_after_statement("INSERT INTO eval_batches")


def stop_in_a_claiming_transaction() -> None:
    _stop_after_statement("UPDATE eval_batches")


def _stop_after_statement(beginning: str) -> None:
    stopped: list[bool] = []

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def stop(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning) and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)


def _call_before(owner: type, name: str, stop: Callable[[], None]) -> None:
    call = getattr(owner, name)

    def stop_and_call(*args: Any, **kwargs: Any) -> Any:
        stop()
        return call(*args, **kwargs)

    setattr(owner, name, stop_and_call)


def _call_after(owner: type, name: str, stop: Callable[[], None]) -> None:
    call = getattr(owner, name)

    def call_and_stop(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        stop()
        return result

    setattr(owner, name, call_and_stop)
