"""Our events and the lines of libraries have one format, and no line shows a secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from dramatiq import Message, MessageProxy
from dramatiq.brokers.stub import StubBroker

from worker.config import load_settings
from worker.logs import add_secret, configure_logging, redact, secrets_of
from worker.pipeline.brokers import LogContext

SECRETS = [
    "plain-key-0123456789",
    'quo"ted',
    "back\\slash",
    "two words",
    "ümläut",
    "tab\tbed",
    "long-" * 40,
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    configured()  # without secrets, because the module keeps them
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(
    log_format: str = "json",
    *,
    level: str = "INFO",
    secrets: list[str] | None = None,
    stream: io.StringIO | None = None,
) -> io.StringIO:
    out = stream or io.StringIO()
    configure_logging(log_format=log_format, level=level, secrets=secrets or [], stream=out)
    return out


def fail(message: str, *, because: Exception) -> None:
    raise ValueError(message) from because


def lines_of(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_our_events_and_those_of_libraries_have_one_format() -> None:
    out = configured()
    structlog.get_logger("evalworker").info("batch.submitted", count=3)
    logging.getLogger("dramatiq.worker").info("Shutting %s", "down")
    ours, theirs = lines_of(out)
    assert ours.keys() - {"count"} == theirs.keys()
    assert (ours["event"], ours["count"], ours["logger"]) == ("batch.submitted", 3, "evalworker")
    assert (theirs["event"], theirs["level"]) == ("Shutting down", "info")


def test_times_are_utc_in_iso_format() -> None:
    out = configured()
    structlog.get_logger("evalworker").info("x")
    at = datetime.fromisoformat(lines_of(out)[0]["timestamp"])
    assert at.utcoffset() == UTC.utcoffset(None)


@pytest.mark.parametrize(
    ("log_format", "stream", "for_machines"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_auto_means_console_only_on_a_terminal(
    log_format: str, stream: type[io.StringIO], for_machines: bool
) -> None:
    out = configured(log_format, stream=stream())
    structlog.get_logger("evalworker").info("x")
    assert out.getvalue().startswith("{") is for_machines


def test_lines_under_the_level_are_not_written() -> None:
    out = configured(level="WARNING")
    structlog.get_logger("evalworker").info("x")
    logging.getLogger("dramatiq").info("x")
    assert out.getvalue() == ""


@pytest.mark.parametrize("name", ["httpx", "alembic.runtime.migration", "uvicorn.access"])
def test_info_lines_of_chatty_libraries_are_dropped(name: str) -> None:
    out = configured(level="DEBUG")
    logging.getLogger(name).info("chat")
    logging.getLogger(name).warning("trouble")
    assert [line["event"] for line in lines_of(out)] == ["trouble"]


def test_errors_that_pika_raises_as_well_are_not_written() -> None:
    out = configured(level="DEBUG")
    logging.getLogger("pika.adapters.blocking_connection").error("Connection workflow failed")
    assert out.getvalue() == ""


def test_of_the_connections_that_cannot_be_accepted_one_line_a_minute_is_kept() -> None:
    out = configured()
    loop = asyncio.new_event_loop()
    for _ in range(3):
        loop.call_exception_handler(
            {
                "message": "socket.accept() out of system resource",
                "exception": OSError(24, "Too many open files"),
            }
        )
    loop.call_exception_handler({"message": "something else"})
    loop.close()
    first, other = lines_of(out)
    assert first["event"].startswith("socket.accept() out of system resource: [Errno 24]")
    assert first["level"] == "warning"
    assert "exception" not in first
    assert other["event"] == "something else"


def test_of_what_libraries_repeat_during_an_outage_one_line_is_kept() -> None:
    out = configured()
    for _ in range(3):
        logging.getLogger("dramatiq.worker.ConsumerThread(default)").critical(
            "Consumer encountered a connection error: %s", "Connection refused"
        )
        logging.getLogger("psycopg.pool").warning("error connecting in %r: %s", "pool-1", "refused")
    assert [(line["level"], line["event"][:12]) for line in lines_of(out)] == [
        ("warning", "Consumer enc"),
        ("warning", "error connec"),
    ]


HARMFUL = "a\x1b[31m\r\nb\x9bc\u202ed\u200be\u2028f\x85"


@pytest.mark.parametrize(("log_format", "stream"), [("json", io.StringIO), ("console", Terminal)])
def test_no_line_has_a_character_that_a_terminal_obeys(
    log_format: str, stream: type[io.StringIO]
) -> None:
    out = configured(log_format, stream=stream())
    structlog.get_logger("evalworker").warning("x", reason=HARMFUL, deep={"in": [HARMFUL]})
    logging.getLogger("x").warning("said %s", HARMFUL)
    try:
        fail(HARMFUL, because=KeyError(HARMFUL))
    except ValueError:
        structlog.get_logger("evalworker").exception("y")
    written = out.getvalue()
    for character in set(HARMFUL) - set("abcdef[31m\n"):
        assert character not in re.sub(r"\x1b\[[0-9;]*m", "", written)  # without our own colours
    assert "\x1b[31m\\r" not in written
    if log_format == "json":
        assert lines_of(out)[0]["reason"] == HARMFUL
        assert lines_of(out)[0]["deep"] == {"in": [HARMFUL]}


def test_json_lines_are_utf8_whatever_the_terminal() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    configure_logging(log_format="json", level="INFO", secrets=[], stream=out)
    structlog.get_logger("evalworker").info("x", text="漢 😀 é")
    out.flush()
    assert json.loads(out.buffer.getvalue())["text"] == "漢 😀 é"


def test_a_reason_cannot_add_a_line_to_the_log() -> None:
    out = configured("console", stream=Terminal())
    structlog.get_logger("evalworker").warning("x", reason="a\n12:00:00 [info] forged")
    assert len(out.getvalue().splitlines()) == 1


def test_configuring_twice_writes_a_line_once() -> None:
    configured()
    out = configured()
    logging.getLogger("x").warning("once")
    assert len(lines_of(out)) == 1


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("log_format", "stream"), [("json", io.StringIO), ("console", Terminal)])
def test_no_line_and_no_traceback_shows_a_secret(
    secret: str, log_format: str, stream: type[io.StringIO]
) -> None:
    out = configured(log_format, secrets=[secret], stream=stream())
    in_a_local_variable = {"key": secret}
    try:
        fail(f"refused: {secret}", because=KeyError(in_a_local_variable["key"]))
    except ValueError:
        structlog.get_logger("evalworker").exception("x", value=secret, deep={"in": [secret]})
        logging.getLogger("x").exception("said %s and %r", secret, secret)
    written = out.getvalue()
    assert "***" in written
    for form in (secret, repr(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        assert form not in written
        assert form[: len(form) * 3 // 4] not in written


def test_a_redacted_json_line_stays_valid() -> None:
    out = configured(secrets=SECRETS)
    structlog.get_logger("evalworker").info("x", values=SECRETS)
    assert lines_of(out)[0]["values"] == ["***"] * len(SECRETS)


def test_a_secret_within_another_does_not_uncover_the_rest() -> None:
    configured(secrets=["key", "key-and-more"])
    assert redact("key-and-more, key") == "***, ***"


def test_the_key_and_all_passwords_are_secrets() -> None:
    settings = load_settings(
        api_key="the-key",
        database_url="postgresql:///d?user=u&password=in%20query",
        broker_url="redis://u:p%40ss@h/0",
        api_url="https://u:of-the-api@h",
    )
    configured(secrets=secrets_of(settings))
    for shown in ("the-key", "in query", "in%20query", "p%40ss", "p@ss", "of-the-api"):
        assert redact(f"<{shown}>") == "<***>"


def test_without_secrets_nothing_is_redacted() -> None:
    configured(secrets=secrets_of(load_settings()))
    assert redact("as it is") == "as it is"


def test_lines_logged_by_an_actor_name_it_and_its_message() -> None:
    out = configured()
    broker = StubBroker(middleware=[])
    message: Message[None] = Message(
        queue_name="q", actor_name="poll", args=(), kwargs={}, options={}
    )
    proxy, context = MessageProxy(message), LogContext()
    log = structlog.get_logger("evalworker")
    context.before_process_message(broker, proxy)
    log.info("within")
    context.after_process_message(broker, proxy)
    log.info("after")
    context.before_process_message(broker, proxy)
    context.after_skip_message(broker, proxy)
    log.info("skipped")
    within, *others = lines_of(out)
    assert (within["message_id"], within["actor"]) == (message.message_id, "poll")
    assert all("message_id" not in line and "actor" not in line for line in others)


def test_a_console_traceback_has_the_lines_that_python_prints() -> None:
    out = configured("console", stream=Terminal())
    try:
        fail("why", because=KeyError("reason"))
    except ValueError:
        structlog.get_logger("evalworker").exception("x")
    written = out.getvalue()
    assert "Traceback (most recent call last):\n" in written
    assert written.index("KeyError: 'reason'") < written.index("\nValueError: why\n")


def test_what_dramatiq_says_of_a_broker_in_trouble_is_one_line_a_minute() -> None:
    out = configured()
    queues = [logging.getLogger(f"dramatiq.worker.ConsumerThread({name})") for name in "ab"]
    for _ in range(5):
        for logger in queues:
            try:
                fail("OOM command not allowed", because=IndexError("of no interest"))
            except ValueError:
                logger.critical("Consumer encountered an unexpected error.", exc_info=True)
            logger.info("Restarting consumer in %0.2f seconds.", 3.0)
    (line,) = lines_of(out)
    assert line["event"] == "Consumer encountered an unexpected error: OOM command not allowed"
    assert "exception" not in line


def test_what_dramatiq_says_is_dropped_where_an_event_of_ours_says_it() -> None:
    out = configured()
    structlog.get_logger("evalworker").warning("message.lost", reason="OOM")
    logging.getLogger("dramatiq.worker.ConsumerThread(a)").critical(
        "Consumer encountered a connection error: %s", "OOM"
    )
    assert [line["event"] for line in lines_of(out)] == ["message.lost"]


def test_a_key_that_is_replaced_is_hidden_like_the_first_one() -> None:
    out = configured(secrets=["first-key"])
    add_secret("second-key")
    structlog.get_logger("evalworker").info("x", text="first-key second-key")
    assert lines_of(out)[0]["text"] == "*** ***"
