"""An outage of the database is one line of the log, however many threads meet it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from worker.events import CountedEvent, Event, RecordedEvent
from worker.pipeline.actors import _guard
from worker.store.outage import REMEMBERED_SECONDS, Outages

AWAY = OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))
FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_failure_is_a_line_and_so_is_the_end() -> None:
    clock = Clock()
    outages = Outages(clock)
    with capture_logs() as logged:
        for _ in range(10):
            outages.report(AWAY, "step")
            clock.now += 30
        outages.end()
        outages.end()
    shown = [(line["event"], line["log_level"]) for line in logged if line["log_level"] != "debug"]
    assert shown == [("database.unavailable", "warning"), ("database.available", "info")]
    assert logged[0]["reason"] == "database is locked"


def test_an_outage_that_comes_and_goes_is_one_line_a_minute() -> None:
    clock = Clock()
    outages = Outages(clock)
    with capture_logs() as logged:
        for _ in range(100):
            outages.report(FULL, "dispatcher")
            outages.end()
            clock.now += 1
    assert len([line for line in logged if line["log_level"] == "warning"]) == 2


def test_a_refused_write_is_remembered_for_a_while() -> None:
    clock = Clock()
    outages = Outages(clock)
    outages.note_refused_write(AWAY)
    assert outages.write_refusal() is None
    outages.note_refused_write(FULL)
    assert outages.write_refusal() == "database or disk is full"
    clock.now += REMEMBERED_SECONDS
    assert outages.write_refusal() is None


@pytest.mark.parametrize(("error", "lines"), [(AWAY, 0), (ValueError("a bug"), 1)])
def test_only_what_is_no_outage_is_an_error_with_a_traceback(error: Exception, lines: int) -> None:
    surprised = []

    def step(_: object) -> None:
        raise error

    actor: Callable[[str], None] = _guard("poll", step, lambda _, raised: surprised.append(raised))
    with capture_logs() as logged:
        actor("01a210d6-50d4-717d-8946-3699ca51663f")
    assert surprised == [error]
    assert [line["log_level"] for line in logged] == ["error"] * lines


@pytest.mark.parametrize(
    ("event", "detail", "level"),
    [
        (Event.GATE_CLOSED, {"scope": "api", "reason": "401"}, logging.WARNING),
        (Event.GATE_CLOSED, {"scope": "pause:judge"}, logging.INFO),
        (Event.GATE_CLOSED, {"scope": "pause"}, logging.INFO),
        (Event.BATCH_HELD, None, logging.ERROR),
        (Event.BATCH_LOST, None, logging.WARNING),
        (Event.JOB_FAILED, None, logging.WARNING),
        (Event.JOB_COMPLETED, None, logging.INFO),
        (Event.JOB_CANCELLED, None, logging.INFO),
        (CountedEvent.BATCH_POLLED, None, logging.DEBUG),
    ],
)
def test_what_needs_a_person_is_a_warning_or_an_error(
    event: Event | CountedEvent, detail: dict[str, str] | None, level: int
) -> None:
    assert RecordedEvent(event, detail=detail).level == level
