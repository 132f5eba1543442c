"""Configure logging: structlog formats all events, also those of libraries, and redacts secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

import structlog

from worker.config import Settings

QUIET = (
    *("httpx", "httpcore", "alembic", "pika", "asyncio"),
    *("uvicorn", "uvicorn.access", "uvicorn.error"),  # uvicorn sets the level of each
)
"""Loggers that only log warnings, because their other lines repeat our events."""

PASSWORD_OPTIONS = frozenset({"password", "passwd", "sslpassword"})  # in the query of a URL

_secrets: list[str] = []


class _OnceAMinute(logging.Filter):
    """Keep one of the lines that asyncio writes for each connection that it cannot accept.

    While a process has no file descriptor left, that is a thousand tracebacks a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        if time.monotonic() < self._next_at:
            return False
        self._next_at = time.monotonic() + 60
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args, record.exc_info = f"cannot accept connections: {error}", (), None
        return True


def configure_logging(
    *, log_format: str, level: str, secrets: Sequence[str], stream: TextIO | None = None
) -> None:
    """Log to `stream`, by default to standard error, without any of the `secrets`.

    `log_format` is "console", "json" or "auto": console on a terminal, and json elsewhere.
    """
    out = stream or sys.stderr
    for_console = log_format == "console" or (log_format == "auto" and out.isatty())
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
            *([] if for_console else [structlog.processors.format_exc_info]),
            renderer,
            _redact_line,
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").filters[:] = [_OnceAMinute()]
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


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
