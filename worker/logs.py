"""Logging: structlog for our events and the libraries' alike, and no secret in any line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, TextIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

import structlog

from worker.config import Settings

QUIET = (
    *("httpx", "httpcore", "alembic", "pika", "asyncio"),
    *("uvicorn", "uvicorn.access", "uvicorn.error"),  # it gives each a level of its own
)
"""Libraries whose ordinary lines say what our events say better."""

PASSWORD_OPTIONS = frozenset({"password", "passwd", "sslpassword"})
"""Of a URL's query."""

_secrets: list[str] = []


def configure_logging(
    *, log_format: str, level: str, secrets: Sequence[str], stream: TextIO | None = None
) -> None:
    """One pipeline to `stream` (default: standard error); "auto" is console on a terminal."""
    out = stream or sys.stderr
    for_people = log_format == "console" or (log_format == "auto" and out.isatty())
    _secrets[:] = sorted({form for s in secrets for form in _forms(s)}, key=len, reverse=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: structlog.typing.Processor = (
        # Plain: the default shows the values of variables, and breaks a secret over two lines.
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if for_people
        else structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if for_people else [structlog.processors.format_exc_info]),
            renderer,
            _redact_line,
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def secrets_of(settings: Settings) -> list[str]:
    """What must never be shown: the keys, and the passwords of URLs, as written and decoded."""
    found = [settings.api_key.get_secret_value()] if settings.api_key else []
    found += settings.webhook_secrets
    for url in (settings.database_url, settings.broker_url, settings.api_url):
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
    """How a secret can stand in a line: as it is, in a URL, in a `repr`, and in JSON of these."""
    plain = {secret, quote(secret, safe=""), repr(secret)[1:-1]} if secret else set()
    return plain | {json.dumps(form, ensure_ascii=False)[1:-1] for form in plain}


def redact(text: str) -> str:
    """The text without any of the secrets that `configure_logging` was told."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def _redact_line(_logger: Any, _method: str, line: Any) -> Any:
    return redact(line) if isinstance(line, str) else line
