"""Read the settings from the environment, once, at start; all invalid ones are reported together.

This module also knows which databases and brokers a URL may name, and how to hide its password.
"""

from __future__ import annotations

import base64
import os
import re
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
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
KEY_FILE_NAME = f"{PREFIX}API_KEY_FILE"
OTHER_VARIABLES = frozenset({f"{PREFIX}MIGRATE"})  # of options of commands
SECRETS = (
    "api_key",
    "gateway_keys",
    "console_keys",
    "webhook_secret",
)  # whose values are never shown

_DATABASES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_BROKERS = ("memory", "redis", "rediss", "unix", "amqp", "amqps", "postgresql", "postgres")

# Dramatiq accepts these names of queues, and gives the excluded endings to queues of its own.
_NAMESPACE = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,199}(?<!\.DQ)(?<!\.XQ)")
_REDIS_PATH = re.compile(r"/?\d*/?")  # anything else would be taken for database 0
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
# What comes after the base URL in the API's paths; people copy it along.
_API_PATH = re.compile(r"(?i)(/v1(/+(judges|batch-executions)(/.*)?)?)?/*$")
_UNREADABLE = (
    "cannot be parsed; its port is a number, and '@', ':', '/', '#' and '%' in its password are "
    "written as %40, %3A, %2F, %23 and %25"
)

# A password may be in the query, among libpq's `name=value` pairs, or before the host, even if `//`
# or the scheme was forgotten. These patterns hide too much rather than too little.
_PASSWORDS = (
    re.compile(r"(?is)([?&](?:password|passwd|sslpassword)=)[^&]*"),
    re.compile(r"(?is)((?:^|\s)(?:password|passwd|sslpassword)\s*=\s*)(?:'[^']*'|\S+)"),
    re.compile(r"(?s)((?://[^/@:]*|^\w+:[^/@:]+|^[^/@:]+(?!://)):).*(?=@)"),
)

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(BaseSettings):
    """The variables, each validated by itself; `Settings` also validates combinations.

    `docs/settings.md` is made from the string below each field.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    database_url: str = "sqlite:///evalworker.db"
    """URL of the database that holds jobs and results: `sqlite:///FILE` or `postgresql://…`. The
    default is a file in the current folder."""
    listen_url: str | None = None
    """URL of a direct connection to the same PostgreSQL database, by which a worker hears of new
    jobs if `EVALWORKER_DATABASE_URL` leads to a pooler. Without it, the worker looks for new jobs
    twice a second; see [docs/deployment.md](docs/deployment.md)."""
    broker_url: str = "memory://"
    """URL of the broker that carries messages between processes: `memory://`, `redis://…`,
    `amqp://…` or `postgresql://…`. The default works within one process."""
    api_url: str = "https://api.app.rootsignals.ai"
    """Base URL of the judge API; a final `/v1` is taken off. The default is the hosted API."""
    api_key: SecretStr | None = Field(None, validation_alias=AliasChoices(*API_KEY_NAMES))
    """Key of the judge API. `ROOTSIGNALS_API_KEY` and `SCORABLE_API_KEY` are read, too."""
    api_key_file: Path | None = None
    """File that has the key instead, such as a mounted secret. It is read again while the worker
    runs, so that a key can be replaced; see [docs/runbook.md](docs/runbook.md#replace-the-key)."""
    max_in_flight: int = Field(20, ge=1, le=10_000)
    """Maximum number of batches at the judge API at any time, over all replicas."""
    batch_size: int = Field(100, ge=1, le=100)
    """Maximum number of inputs in a batch. The API accepts no more than 100."""
    linger_seconds: Seconds = Field(2.0, ge=0, le=3600)
    """Seconds that a part-filled batch waits for more inputs before it is sent."""
    poll_min_seconds: Seconds = Field(2.0, ge=0.05, le=3600)
    """Minimum seconds between two polls of a batch."""
    poll_max_seconds: Seconds = Field(30.0, ge=0.05, le=3600)
    """Maximum seconds between two polls of a batch."""
    batch_timeout_seconds: Seconds = Field(3600.0, gt=0, le=30 * 86400)
    """Seconds after which a batch that has not ended is given up as lost and its inputs are sent
    again. The default is one hour."""
    max_item_attempts: int = Field(3, ge=1, le=100)
    """Maximum number of times that an input is evaluated if it keeps failing."""
    lease_seconds: Seconds = Field(30.0, ge=5, le=30)
    """Seconds that a claim on a batch lasts. If a process dies, its work waits this long before
    another process takes over."""
    tag_batches: bool = True
    """Whether each batch gets the tag `evalworker:<batch id>`, which finds a submission again after
    its response was lost."""
    on_lost_answer: Literal["resubmit", "hold"] = "resubmit"
    """What happens to a submission whose response was lost if the API has no list to search:
    `resubmit` sends it again, which may be billed twice; `hold` waits for a person."""
    ops_host: str = "127.0.0.1"
    """Address that the operations port listens on. The default is local only."""
    ops_port: int | None = Field(None, ge=0, le=65535)
    """Port for `/livez`, `/readyz` and `/metrics`. By default, none is opened."""
    gateway_host: str = "127.0.0.1"
    """Address that the gateway listens on. The default is local only."""
    gateway_port: int = Field(8322, ge=0, le=65535)
    """Port that the gateway listens on."""
    gateway_keys: SecretStr | None = None
    """Keys of the gateway's callers, as JSON or as the name of a JSON file; see
    [docs/gateway.md](docs/gateway.md)."""
    gateway_max_inputs: int = Field(100, ge=1, le=100_000)
    """Maximum number of inputs in one submission to the gateway."""
    gateway_max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    """Maximum size of a request to the gateway, in bytes. The default is 32 MiB."""
    console_host: str = "127.0.0.1"
    """Address that the console listens on. The default is local only; any other address needs
    keys or an authenticating proxy."""
    console_port: int = Field(8323, ge=0, le=65535)
    """Port that the console listens on."""
    console_keys: SecretStr | None = None
    """Keys of the people who may use the console, as JSON or as the name of a JSON file; see
    [docs/console.md](docs/console.md). Without keys, only this machine can use it."""
    console_read_only: bool = False
    """Whether the console refuses every action, whatever the role."""
    console_prefix: str = ""
    """Path under which a proxy serves the console, such as `/evalworker`."""
    console_proxy_header: str | None = None
    """Header in which an authenticating proxy names the user, such as `X-Forwarded-User`. It needs
    `EVALWORKER_CONSOLE_PROXIES`."""
    console_proxies: str = ""
    """Addresses or networks of the proxies before the console, with commas between them. From any
    other address, that header and `X-Forwarded-Proto` are ignored."""
    webhook_secret: SecretStr | None = None
    """Secret that signs the notices of ended jobs: `whsec_…`, or two of them with a space between
    them while you replace one; see [docs/notices.md](docs/notices.md)."""
    webhook_allow_private: bool = False
    """Whether notices may go to private, loopback and link-local addresses, and without TLS."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """Format of the log lines: `console` is for people, `json` for machines; `auto` is `console` on
    a terminal and `json` elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _to_upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        try:
            url = sa.make_url(value)
        except sa.exc.ArgumentError:
            raise ValueError("is not a database URL") from None
        except ValueError:  # its message quotes the alleged port, which is part of the password
            raise ValueError(_UNREADABLE) from None
        # The rest of a password with an '@' would be shown as the host or the database.
        has_rest = url.password is not None and "@" in (url.database or "")
        if has_rest or "@" in (url.host or ""):
            raise ValueError(_UNREADABLE)
        if url.drivername not in _DATABASES:
            raise ValueError(
                f"has the unknown driver {url.drivername!r}; use sqlite:///FILE or postgresql://…"
            )
        if url.drivername == "sqlite" and _in_memory(url):
            raise ValueError("must name a file: a database in memory ends with the process")
        return value

    @field_validator("listen_url")
    @classmethod
    def _check_listen_url(cls, value: str | None) -> str | None:
        if value is not None and cls._check_database_url(value).startswith("sqlite"):
            raise ValueError("must be postgresql://…: SQLite sends no notifications")
        return value

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if scheme not in _BROKERS or "://" not in value:
            raise ValueError(f"must begin with one of {', '.join(f'{b}://' for b in _BROKERS)}")
        if not _is_readable(value):
            raise ValueError(_UNREADABLE)
        if scheme.startswith("redis") and not _REDIS_PATH.fullmatch(urlsplit(value).path):
            raise ValueError("must name Redis' database by its number, such as redis://host:6379/0")
        namespace = dict(parse_qsl(urlsplit(value).query)).get("namespace")
        if namespace is not None and not _NAMESPACE.fullmatch(namespace):
            raise ValueError(
                f"has the namespace {namespace!r}; it must start with a letter or '_', have at "
                "most 200 letters, digits and '._-', and not end in .DQ or .XQ"
            )
        return value

    @field_validator("api_url")
    @classmethod
    def _check_api_url(cls, value: str) -> str:
        url = value.strip()
        if url.startswith(("'", '"', "`")):
            raise ValueError("must not be in quotation marks")
        if "?" in url or "#" in url:
            raise ValueError("must have no query ('?') and no fragment ('#')")
        if not re.fullmatch(r"(?i)https?://[^\s/]+(/\S*)?", url):
            raise ValueError("must be an http:// or https:// URL")
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        # Without `/v1` and what follows it: the client appends the whole path.
        return f"{scheme}://{host}{_API_PATH.sub('', slash + path)}"

    @field_validator("console_prefix")
    @classmethod
    def _check_console_prefix(cls, value: str) -> str:
        if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", value):
            raise ValueError("must be a path such as /evalworker")
        return value.rstrip("/")

    @field_validator("console_proxy_header")
    @classmethod
    def _check_console_proxy_header(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9-]+", value):
            raise ValueError("must be the name of a header, such as X-Forwarded-User")
        return value

    @field_validator("console_proxies")
    @classmethod
    def _check_console_proxies(cls, value: str) -> str:
        for network in value.split(",") if value else ():
            try:
                ip_network(network.strip())
            except ValueError as error:
                raise ValueError(f"must be addresses or networks: {error}") from None
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        for secret in value.get_secret_value().split() if value else ():
            if not _is_signing_secret(secret):
                raise ValueError(
                    "must be whsec_ followed by 24 to 64 random bytes in base64; make one with "
                    "`echo whsec_$(openssl rand -base64 32)`"
                )
        return value


class Settings(_Fields):
    """All settings. Each variable is the name of its field in capitals after `EVALWORKER_`."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if found := _conflicts(self):
            raise ValueError("\n".join(found.values()))
        return self

    @property
    def sqlalchemy_url(self) -> sa.URL:
        """The database URL with the driver psycopg 3."""
        return _with_driver(self.database_url)

    @property
    def sqlalchemy_listen_url(self) -> sa.URL | None:
        """The URL of the direct connection with the driver psycopg 3, if there is one."""
        return _with_driver(self.listen_url) if self.listen_url else None

    @property
    def webhook_secrets(self) -> list[str]:
        """The secrets that sign notices: none, one, or two while one is replaced."""
        return self.webhook_secret.get_secret_value().split() if self.webhook_secret else []

    @property
    def console_proxy_networks(self) -> list[IPv4Network | IPv6Network]:
        """The networks from which the headers of a proxy are believed."""
        return [ip_network(part.strip()) for part in self.console_proxies.split(",") if part]


def _with_driver(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    return parsed.set(drivername=_DATABASES[parsed.drivername])


def _is_signing_secret(secret: str) -> bool:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return secret.startswith("whsec_") and 24 <= len(key) <= 64


def load_settings(**overrides: Any) -> Settings:
    """Read the environment. Raise `ConfigurationError` with every offence, by variable name."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        parts = error.errors()
    offences = [line for part in parts for line in _offence(part).splitlines()]
    wrong = {_field(part) for part in parts if part["loc"]}
    raise ConfigurationError([*offences, *_conflicts_among_others(wrong, overrides)])


def _conflicts_among_others(wrong: set[str], overrides: dict[str, Any]) -> list[str]:
    """Find conflicts among valid fields: pydantic skips them while a field is invalid."""
    if not wrong:
        return []
    fields = _Fields.model_fields
    good = {name: value for name, value in overrides.items() if name in fields.keys() - wrong}
    defaults = {name: fields[name].default for name in wrong & fields.keys()}
    found = _conflicts(_Fields(**good, **defaults))
    return [sentence for names, sentence in found.items() if not wrong.intersection(names)]


def _conflicts(given: _Fields) -> dict[tuple[str, str], str]:
    """Map each pair of fields that contradict each other to a sentence that says how."""
    found = {}
    if given.api_key is not None and given.api_key_file is not None:
        name = next((name for name in API_KEY_NAMES if os.environ.get(name)), API_KEY_NAMES[0])
        found["api_key", "api_key_file"] = (
            f"{name} and {KEY_FILE_NAME} are both set; unset the one that does not have the key"
        )
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
    if given.console_proxy_header is not None and not given.console_proxies:
        found["console_proxy_header", "console_proxies"] = (
            f"{PREFIX}CONSOLE_PROXY_HEADER needs {PREFIX}CONSOLE_PROXIES: the addresses from which "
            "the header is believed"
        )
    return found


def _in_memory(url: sa.URL) -> bool:
    return not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"


def _is_readable(url: str) -> bool:
    """Return whether no client would mistake a part of the password for the host or the port."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    credentials, _, hosts = parts.netloc.rpartition("@")
    if "@" in credentials and parts.scheme.startswith("postgres"):
        return False  # for libpq, the password ends at the first one
    return all(_HOST.fullmatch(host) for host in hosts.split(","))


def _field(error: Any) -> str:
    name = str(error["loc"][0])
    return "api_key" if name in API_KEY_NAMES else name


def _offence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    variable = f"{PREFIX}{_field(error).upper()}"
    if _field(error) in SECRETS:
        return f"{variable}: {message}"
    return f"{variable}={hide_password(str(error['input']))}: {message}"


def sources(settings: Settings) -> dict[str, tuple[str, str]]:
    """Map each variable to its value, with secrets hidden, and to where the value comes from."""
    given = {name.upper() for name, value in os.environ.items() if value}
    found = {}
    for name in Settings.model_fields:
        variables = API_KEY_NAMES if name == "api_key" else (f"{PREFIX}{name.upper()}",)
        source = next((f"environment {v}" for v in variables if v in given), "default")
        value = getattr(settings, name)
        shown = "" if value is None else hide_password(str(value))
        found[variables[0]] = (shown, source)
    return found


def unknown_variables() -> dict[str, str | None]:
    """Map each variable with our prefix that is no setting to the near setting, if there is one.

    Kubernetes puts the addresses of a service `evalworker…` under the same prefix; they are left
    out. So are empty variables, which count as not set.
    """
    given = {name.upper() for name, value in os.environ.items() if value}
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    services = {name.removesuffix("_SERVICE_HOST") for name in given if "_SERVICE_HOST" in name}
    links = tuple(f"{service}_{part}" for service in services for part in ("SERVICE_", "PORT"))
    suffixes = [name.removeprefix(PREFIX) for name in known]
    found: dict[str, str | None] = {}
    for name in sorted(given - known):
        if name.startswith(PREFIX) and not name.startswith(links):
            near = get_close_matches(name.removeprefix(PREFIX), suffixes, 1)
            found[name] = f"{PREFIX}{near[0]}" if near else None
    return found


def hide_password(url: str) -> str:
    """Replace the password of a URL by `***`. Accepts any text."""
    for pattern in _PASSWORDS:
        url = pattern.sub(r"\1***", url)
    return url
