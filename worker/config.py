"""The settings, read from the environment once, at start; everything wrong is told at once.

This module also knows which databases and brokers a URL may name, and how to show a URL without
its password.
"""

from __future__ import annotations

import base64
import os
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import sqlalchemy as sa
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.errors import ConfigurationError

PREFIX = "EVALWORKER_"
API_KEY_NAMES = (f"{PREFIX}API_KEY", "ROOTSIGNALS_API_KEY", "SCORABLE_API_KEY")
SECRETS = ("api_key", "gateway_keys", "webhook_secret")  # fields whose values are never shown

_DATABASES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_BROKERS = ("memory", "redis", "rediss", "unix", "amqp", "amqps", "postgresql", "postgres")

# What Dramatiq takes as the name of a queue. It gives these endings to queues of its own.
_NAMESPACE = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,199}(?<!\.DQ)(?<!\.XQ)")
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
_UNREADABLE = "cannot be read: is an '@', ':' or '/' of its password not written %40, %3A or %2F?"

# Where a password stands: in a query, among libpq's `name=value` pairs, and before the host, also
# where `//` or the scheme was forgotten. Rather too much is hidden than too little.
_PASSWORDS = (
    re.compile(r"(?is)([?&](?:password|passwd|sslpassword)=)[^&]*"),
    re.compile(r"(?is)((?:^|\s)(?:password|passwd|sslpassword)\s*=\s*)(?:'[^']*'|\S+)"),
    re.compile(r"(?s)((?://[^/@:]*|^\w+:[^/@:]+|^[^/@:]+(?!://)):).*(?=@)"),
)

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class _Variables(BaseSettings):
    """Each variable for itself; `Settings` adds how they must agree."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    database_url: str = Field(
        "sqlite:///evalworker.db",
        description="Where jobs and results live: `sqlite:///FILE` or `postgresql://…`.",
    )
    broker_url: str = Field(
        "memory://",
        description="What carries messages between processes: `memory://` (one process), "
        "`redis://…`, `amqp://…` or `postgresql://…`.",
    )
    api_url: str = Field(
        "https://api.app.rootsignals.ai", description="The judge API, without `/v1`."
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices(*API_KEY_NAMES),
        description="The key for it; `ROOTSIGNALS_API_KEY` and `SCORABLE_API_KEY` are read too.",
    )
    max_in_flight: int = Field(
        20, ge=1, le=10_000, description="Batches at the remote at once, over all replicas."
    )
    batch_size: int = Field(100, ge=1, le=100, description="Inputs in a batch, at most.")
    linger_seconds: Seconds = Field(
        2.0, ge=0, le=3600, description="How long a part-filled batch waits for company."
    )
    poll_min_seconds: Seconds = Field(
        2.0, ge=0.05, le=3600, description="Between two polls of a batch, at least."
    )
    poll_max_seconds: Seconds = Field(
        30.0, ge=0.05, le=3600, description="Between two polls of a batch, at most."
    )
    batch_timeout_seconds: Seconds = Field(
        3600.0,
        gt=0,
        le=30 * 86400,
        description="A batch without an end after this long is lost: its inputs are sent again.",
    )
    max_item_attempts: int = Field(
        3, ge=1, le=100, description="How often an input that fails is evaluated, at most."
    )
    lease_seconds: Seconds = Field(
        30.0,
        ge=5,
        le=30,
        description="How long a dead process's claim on a batch keeps others from it.",
    )
    tag_batches: bool = Field(
        True,
        description="Adds the tag `evalworker:<batch id>` to each batch, by which a submission "
        "whose answer was lost is found again.",
    )
    on_lost_answer: Literal["resubmit", "hold"] = Field(
        "resubmit",
        description="Where the API has no list to look in for a lost submission: send it again "
        "(it may be billed twice), or hold it for the operator.",
    )
    ops_host: str = Field("127.0.0.1", description="Address of the operations port.")
    ops_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="The operations port: /livez, /readyz and /metrics. Unset: none.",
    )
    gateway_host: str = Field("127.0.0.1", description="Address of the gateway.")
    gateway_port: int = Field(8322, ge=0, le=65535, description="Port of the gateway.")
    gateway_keys: SecretStr | None = Field(
        None,
        description="Who may use the gateway: JSON, or the name of a file of it; see "
        "[docs/gateway.md](docs/gateway.md).",
    )
    gateway_max_inputs: int = Field(
        100, ge=1, le=100_000, description="Inputs of one submission to the gateway, at most."
    )
    gateway_max_body_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Of one request to the gateway, at most."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signs the notices of ended jobs: `whsec_…`, or two of them while you change "
        "it; see [docs/notices.md](docs/notices.md).",
    )
    webhook_allow_private: bool = Field(
        False,
        description="Send notices to private, loopback and link-local addresses too, and without "
        "TLS.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines for people or for machines; auto: by who is looking."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level that is logged."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        try:
            url = sa.make_url(value)
        except sa.exc.ArgumentError:
            raise ValueError("is not a database URL") from None
        except ValueError:  # it would quote what it took for the port: a part of the password
            raise ValueError(_UNREADABLE) from None
        if "@" in (url.host or ""):
            raise ValueError(_UNREADABLE)
        if url.drivername not in _DATABASES:
            raise ValueError(
                f"names {url.drivername!r}; use sqlite:///FILE or postgresql://… (psycopg 3)"
            )
        if url.drivername == "sqlite" and _in_memory(url):
            raise ValueError("must name a file: an SQLite database in memory survives nothing")
        return value

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if scheme not in _BROKERS or "://" not in value:
            raise ValueError(f"must begin with one of {', '.join(f'{b}://' for b in _BROKERS)}")
        if not _is_readable(value):
            raise ValueError(_UNREADABLE)
        namespace = dict(parse_qsl(urlsplit(value).query)).get("namespace")
        if namespace is not None and not _NAMESPACE.fullmatch(namespace):
            raise ValueError(
                f"has the namespace {namespace!r}; it must begin with a letter or '_', have only "
                "letters, digits and '._-', be of 200 at most, and not end in .DQ or .XQ"
            )
        return value

    @field_validator("api_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
            raise ValueError("must be an http:// or https:// URL without a query")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signing(cls, value: SecretStr | None) -> SecretStr | None:
        for secret in value.get_secret_value().split() if value else ():
            if not _is_signing_secret(secret):
                raise ValueError(
                    "must be whsec_ and the base64 of 24 to 64 random bytes; make one with "
                    "`echo whsec_$(openssl rand -base64 32)`"
                )
        return value


class Settings(_Variables):
    """One field per environment variable, `EVALWORKER_` before its name in capitals."""

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        if found := _disagreements(self):
            raise ValueError("\n".join(found.values()))
        return self

    @property
    def sqlalchemy_url(self) -> sa.URL:
        """The database with its driver spelled out."""
        url = sa.make_url(self.database_url)
        return url.set(drivername=_DATABASES[url.drivername])

    @property
    def webhook_secrets(self) -> list[str]:
        """What notices are signed with: none, one, or while it changes two."""
        return self.webhook_secret.get_secret_value().split() if self.webhook_secret else []


def _is_signing_secret(secret: str) -> bool:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return secret.startswith("whsec_") and 24 <= len(key) <= 64


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment; raises `ConfigurationError` with every offence, by variable name."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        parts = error.errors()
    offences = [line for part in parts for line in _sentence(part).splitlines()]
    wrong = {_field(part) for part in parts if part["loc"]}
    raise ConfigurationError([*offences, *_hidden_by(wrong, overrides)])


def _hidden_by(wrong: set[str], overrides: dict[str, Any]) -> list[str]:
    """How the others disagree: pydantic does not look while one of the fields is wrong."""
    if not wrong:
        return []
    fields = _Variables.model_fields
    good = {name: value for name, value in overrides.items() if name in fields.keys() - wrong}
    defaults = {name: fields[name].default for name in wrong & fields.keys()}
    found = _disagreements(_Variables(**good, **defaults))
    return [sentence for names, sentence in found.items() if not wrong.intersection(names)]


def _disagreements(given: _Variables) -> dict[tuple[str, str], str]:
    """Pairs of fields that are at odds, each with the sentence that says how."""
    found = {}
    if given.poll_min_seconds > given.poll_max_seconds:
        found["poll_min_seconds", "poll_max_seconds"] = (
            f"{PREFIX}POLL_MIN_SECONDS ({given.poll_min_seconds:g}) must not be more than "
            f"{PREFIX}POLL_MAX_SECONDS ({given.poll_max_seconds:g})"
        )
    if given.batch_timeout_seconds <= given.poll_max_seconds:
        found["batch_timeout_seconds", "poll_max_seconds"] = (
            f"{PREFIX}BATCH_TIMEOUT_SECONDS ({given.batch_timeout_seconds:g}) must be more "
            f"than {PREFIX}POLL_MAX_SECONDS ({given.poll_max_seconds:g})"
        )
    return found


def _in_memory(url: sa.URL) -> bool:
    return not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"


def _is_readable(url: str) -> bool:
    """False where a client would take a part of the password for the host or the port."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    credentials, _, hosts = parts.netloc.rpartition("@")
    if "@" in credentials and parts.scheme.startswith("postgres"):
        return False  # libpq ends the password at the first one
    return all(_HOST.fullmatch(host) for host in hosts.split(","))


def _field(error: Any) -> str:
    name = str(error["loc"][0])
    return "api_key" if name in API_KEY_NAMES else name


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    variable = f"{PREFIX}{_field(error).upper()}"
    if _field(error) in SECRETS:
        return f"{variable}: {message}"
    return f"{variable}={hide_password(str(error['input']))}: {message}"


def sources(settings: Settings) -> dict[str, tuple[str, str]]:
    """Each variable, the value in force (secrets hidden), and where it comes from."""
    given = {name.upper() for name, value in os.environ.items() if value}
    found = {}
    for name in Settings.model_fields:
        variables = API_KEY_NAMES if name == "api_key" else (f"{PREFIX}{name.upper()}",)
        source = next((f"environment {v}" for v in variables if v in given), "default")
        value = getattr(settings, name)
        shown = "" if value is None else hide_password(str(value))
        found[variables[0]] = (shown, source)
    return found


def hide_password(url: str) -> str:
    """A URL as people may see it; never raises, whatever it is given."""
    for pattern in _PASSWORDS:
        url = pattern.sub(r"\1***", url)
    return url
