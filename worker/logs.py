"""Configure logging: structlog formats all events, also those of libraries, and redacts secrets."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import MutableMapping, Sequence
from typing import Any, TextIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

import structlog

from worker.config import Settings
from worker.domain.terminal_text import escape_controls, is_printable

QUIET = (
    *("httpx", "httpcore", "alembic", "asyncio"),
    *("uvicorn", "uvicorn.access", "uvicorn.error"),  # uvicorn sets the level of each
)
"""Loggers that only log warnings, because their other lines repeat our events."""

RAISES_TOO = "pika"
"""The logger of a library that logs several errors, with tracebacks, for each that it raises."""

PASSWORD_OPTIONS = frozenset({"password", "passwd", "sslpassword"})  # in the query of a URL

_secrets: list[str] = []


BROKER_OUTAGES = (  # by Dramatiq, at level critical, every three seconds for each queue
    "Consumer encountered a connection error",
    "Consumer encountered an unexpected error",  # with a traceback: Redis is out of memory
    "Failed to post_process_message",
    "Unhandled error during post_process_message",
)
OUTAGES = (
    *BROKER_OUTAGES,
    "socket.accept() out of system resource",  # asyncio, a thousand times a second
    "error connecting in ",  # psycopg's pool
    "discarding closed connection",
)
"""How lines of libraries begin that repeat, while an outage lasts, what one line says."""

FOLLOWS_OUTAGE = "Restarting consumer in "  # what Dramatiq says after each of its lines
OUTAGE_SECONDS = 60.0  # between two of such lines


class _OutageFilter(logging.Filter):
    """Keep one such line a minute, as a warning and without its traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at = dict.fromkeys(OUTAGES, float("-inf"))

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str):  # an event of our own
            self._note_event(record.msg)
            return True
        message = record.getMessage()
        if message.startswith(FOLLOWS_OUTAGE):
            return False
        kind = next((begin for begin in OUTAGES if message.startswith(begin)), None)
        if kind is None:
            return True
        now = time.monotonic()
        if now < self._next_at[kind]:
            return False
        self._next_at[kind] = now + OUTAGE_SECONDS
        cause = f": {record.exc_info[1]}" if record.exc_info else ""
        record.msg, record.args = f"{message.splitlines()[0].rstrip('.')}{cause}", ()
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True

    def _note_event(self, event: object) -> None:
        """Drop for a while what Dramatiq says of a broker, where an event of ours says it."""
        if isinstance(event, dict) and event.get("event") == "message.lost":
            next_at = time.monotonic() + OUTAGE_SECONDS
            self._next_at |= dict.fromkeys(BROKER_OUTAGES, next_at)


def configure_logging(
    *, log_format: str, level: str, secrets: Sequence[str], stream: TextIO | None = None
) -> None:
    """Log to `stream`, by default to standard error, without any of the `secrets`.

    `log_format` is "console", "json" or "auto": console on a terminal, and json elsewhere.
    """
    out = stream or sys.stderr
    for_console = log_format == "console" or (log_format == "auto" and out.isatty())
    if not for_console and isinstance(out, io.TextIOWrapper):
        out.reconfigure(encoding="utf-8", errors="backslashreplace")  # JSON is, whatever the locale
    _secrets[:] = sorted({form for s in secrets for form in _forms(s)}, key=len, reverse=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_console else "iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: structlog.typing.Processor = (
        # The default traceback shows values of variables, and wraps secrets over two lines.
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if for_console
        else structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *([_escape_values] if for_console else []),
            renderer,
            _redact_line,
            *([] if for_console else [_escape_line]),
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    handler.addFilter(_OutageFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(RAISES_TOO).setLevel(logging.CRITICAL)


def add_secret(secret: str) -> None:
    """Hide one secret more from now on, such as a key that has been replaced."""
    forms = {*_secrets, *_forms(secret)}
    _secrets[:] = sorted(forms, key=len, reverse=True)


def secrets_of(settings: Settings) -> list[str]:
    """Return the keys and the passwords of URLs, both as written and decoded."""
    found = [settings.api_key.get_secret_value()] if settings.api_key else []
    found += settings.webhook_secrets
    urls = (settings.database_url, settings.listen_url, settings.broker_url, settings.api_url)
    for url in filter(None, urls):
        try:
            parts = urlsplit(url)
            passwords = [parts.password or ""]
        except ValueError:
            continue
        for name, values in parse_qs(parts.query).items():
            if name in PASSWORD_OPTIONS:
                passwords += values
        found += [form for p in passwords if p for form in (p, unquote(p))]
    return list(dict.fromkeys(found))


def _forms(secret: str) -> set[str]:
    """Return the secret as it may be written: plain, in a URL, in a `repr`, and in JSON."""
    plain = {secret, quote(secret, safe=""), repr(secret)[1:-1]} if secret else set()
    return plain | {json.dumps(form, ensure_ascii=False)[1:-1] for form in plain}


def redact(text: str) -> str:
    """Replace the secrets that `configure_logging` was given by `***`."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def _redact_line(_logger: Any, _method: str, line: Any) -> Any:
    return redact(line) if isinstance(line, str) else line


def _escape_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
    """Escape what a terminal would obey, before colours are added; tracebacks keep their lines."""
    return {
        name: value
        if isinstance(value, int | float | None)
        else escape_controls(
            value if isinstance(value, str) else repr(value),
            keep="\n" if name == "exception" else "",
        )
        for name, value in event.items()
    }


def _escape_line(_logger: Any, _method: str, line: Any) -> Any:
    """Escape the same in a line of JSON, as JSON does: people read those on terminals, too."""
    if not isinstance(line, str) or is_printable(line):
        return line
    return "".join(
        character if is_printable(character) else json.dumps(character)[1:-1] for character in line
    )
