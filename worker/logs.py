"""Logging: structlog for our events and the libraries' alike, and no secret in any line."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote, unquote, urlsplit

import dramatiq
import structlog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.config import Settings

QUIET = ("httpx", "httpcore", "alembic", "uvicorn", "pika", "asyncio")
"""Libraries whose ordinary lines say what our events say better."""

_secrets: list[str] = []


def configure_logging(
    *, log_format: str, level: str, secrets: Sequence[str], stream: TextIO | None = None
) -> None:
    """One pipeline to `stream` (default: standard error); "auto" is console on a terminal."""
    out = stream or sys.stderr
    for_people = log_format == "console" or (log_format == "auto" and out.isatty())
    _secrets[:] = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
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
        structlog.dev.ConsoleRenderer(colors=out.isatty())
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
    """What must never be shown: the key, and passwords of URLs as written, decoded and encoded."""
    found = [settings.api_key.get_secret_value()] if settings.api_key else []
    for url in (settings.database_url, settings.broker_url):
        try:
            password = urlsplit(url).password
        except ValueError:
            continue
        if password:
            found += [password, unquote(password), quote(unquote(password), safe="")]
    return found


def redact(text: str) -> str:
    """The text without any of the secrets that `configure_logging` was told."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def _redact_line(_logger: Any, _method: str, line: Any) -> Any:
    return redact(line) if isinstance(line, str) else line


class LogContext(dramatiq.Middleware):
    """Binds the message's id and actor to every line that is logged while it is worked on."""

    # ruff: noqa: ARG002 (the signatures are Dramatiq's)

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        structlog.contextvars.bind_contextvars(
            message_id=message.message_id, actor=message.actor_name
        )

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        structlog.contextvars.unbind_contextvars("message_id", "actor")

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        structlog.contextvars.unbind_contextvars("message_id", "actor")
