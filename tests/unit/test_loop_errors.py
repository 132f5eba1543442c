"""A loop that is interrupted goes on, and says so once a minute."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future

from structlog.testing import capture_logs

from worker.pipeline.loop_errors import REPEAT_SECONDS, LoopErrors
from worker.store.outage import Outages


def raised(error: Exception) -> Exception:
    """Return the error with a traceback."""
    future: Future[None] = Future()
    future.set_exception(error)
    with contextlib.suppress(type(error)):
        future.result()
    return error


def test_the_same_error_of_a_loop_is_logged_once_a_minute() -> None:
    now = 0.0
    errors = LoopErrors("broken", Outages(), monotonic=lambda: now)
    same = [raised(ValueError(f"row {number}")) for number in range(3)]
    with capture_logs() as lines:
        for error in same:
            errors.report(error)
        errors.report(raised(KeyError("b")))
        errors.report(raised(KeyError("b")))
        now = REPEAT_SECONDS
        errors.report(raised(KeyError("b")))
    assert {line["event"] for line in lines} == {"broken.interrupted"}
    assert [line["reason"] for line in lines] == [
        "ValueError: row 0",
        "KeyError: 'b'",
        "KeyError: 'b'",
    ]
