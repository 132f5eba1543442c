"""Prepare each connection to PostgreSQL, whatever the defaults of its server, database or role.

A direct connection keeps what is set once. A pooler in transaction mode gives each transaction to
another connection of its own, and a setting would stay behind there for somebody else. So through a
pooler each transaction makes its settings for itself, in the message that begins it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import psycopg

PoolMode = Literal["session", "transaction"]

# PostgreSQL ends a transaction that sends nothing for so long. Otherwise a stopped process or a
# vanished machine would keep its locks, and block everybody else, until TCP noticed.
IDLE_TRANSACTION_SECONDS = 20

# The worker finds its rows by indexes. PostgreSQL's statistics lag behind in tables that change so
# fast, and where they promise few rows, it scans a table of millions.
INDEX_SCANS_ONLY = {"enable_seqscan": "off", "enable_bitmapscan": "off"}

SETTINGS: Mapping[str, str] = {
    # What others set for their own statements would end transactions of the worker that wait.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_SECONDS}s",
    # psycopg reads times and intervals in these forms only, and numbers would lose digits.
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    # Under row policies, "off" turns each statement that they restrict into an error.
    "row_security": "on",
    **INDEX_SCANS_ONLY,
    "plan_cache_mode": "auto",
    # Before PostgreSQL 18, a plan without a suitable index seems expensive enough to be compiled.
    "jit": "off",
}
SETTINGS_SINCE_17: Mapping[str, str] = {"transaction_timeout": "0"}

# A direct connection is also used without a transaction, and waits in the pool.
DIRECT_SETTINGS: Mapping[str, str] = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}
DIRECT_SETTINGS_SINCE_14: Mapping[str, str] = {"idle_session_timeout": "0"}

# Readers lock no rows, so they may be slow, and they may scan whole tables.
OF_READERS: Mapping[str, str] = {
    "idle_in_transaction_session_timeout": "0",
    **dict.fromkeys(INDEX_SCANS_ONLY, "on"),
}

# Whatever the default is: after waiting for a locked row, a transaction must see what the lock's
# holder wrote.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

# The session is gone or is no longer the one that it was: it ended (57…, 25P03), the server or the
# pooler has no room for it or broke off (08…, 53300), or a pooler or a restart changed what is
# behind it, so that it lacks or already has a prepared statement (26000, 42P05), or lost its
# transaction (25P02).
LOST_SESSION = re.compile(r"08...|57P0[1235]|25P0[23]|53300|26000|42P05")

_IDENTITY = """
SELECT pg_backend_pid(), current_setting('synchronous_commit'),
    current_setting('session_replication_role')
"""


class PostgresSession(NamedTuple):
    """What the worker knows of one connection, and the statements that begin its transactions."""

    is_pooled: bool
    begin: str
    begin_reading: str
    begin_short_reading: str  # of few rows, by index; a direct connection needs no transaction


def open_session(
    driver: psycopg.Connection[Any], of_url: Mapping[str, str] = MappingProxyType({})
) -> PostgresSession:
    """Find out what is at the other end of a new connection, and make its settings.

    At its start, PostgreSQL tells a connection the number of its process. Poolers make up a number
    or tell none, as a connection to them does not belong to one process.

    `of_url` are the settings that the URL asks for; they come before the worker's own.
    """
    settings = {**SETTINGS, **(SETTINGS_SINCE_17 if _version(driver) >= 17 else {})}
    backend, commits, replication = driver.execute(_IDENTITY).fetchone() or (0, "on", "origin")
    if commits == "off":  # a submission that a crash could forget would be billed twice
        settings["synchronous_commit"] = "on"
    if replication == "replica":  # in which no trigger fires
        settings["session_replication_role"] = "origin"
    is_pooled = backend != driver.info.backend_pid
    local = ""
    if is_pooled:
        # The next transaction may meet a server connection that lacks the prepared statement.
        driver.prepare_threshold = None
        local = _sets(settings, local=True) + _calls(of_url, local=True)
    else:
        lasting = _sets(settings | _of_direct_connections(driver)) + _calls(of_url, local=False)
        driver.execute(lasting.encode())
    return PostgresSession(
        is_pooled,
        begin=f"{BEGIN} READ WRITE;{local}",
        begin_reading=f"{BEGIN} READ ONLY;{local}{_sets(OF_READERS, local=True)}",
        begin_short_reading=f"{BEGIN} READ ONLY;{local}",
    )


def settings_of_options(options: str) -> tuple[dict[str, str], str]:
    """Split libpq's `options` into settings and the rest, which only a startup packet can carry.

    Poolers refuse `options`, or ignore them; settings can also be made by statements.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in _WORD.findall(options)]
    settings, rest = {}, []
    given = iter(words)
    for word in given:
        if word == "-c":
            word = f"-c{next(given, '')}"
        if found := _SETTING.fullmatch(word):
            settings[found["name"].replace("-", "_").lower()] = found["value"]
        else:
            rest.append(re.sub(r"([\\\s])", r"\\\1", word))
    return settings, " ".join(rest)


_WORD = re.compile(r"(?:[^\\\s]|\\.)+")
_SETTING = re.compile(r"(?:-c|--)(?P<name>[A-Za-z_][\w.-]*)=(?P<value>.*)", re.DOTALL)


def _of_direct_connections(driver: psycopg.Connection[Any]) -> dict[str, str]:
    since_14 = DIRECT_SETTINGS_SINCE_14 if _version(driver) >= 14 else {}
    return {**DIRECT_SETTINGS, **since_14}


def _version(driver: psycopg.Connection[Any]) -> int:
    return driver.info.server_version // 10_000


def _sets(settings: Mapping[str, str], *, local: bool = False) -> str:
    verb = "SET LOCAL" if local else "SET"
    return "".join(f"{verb} {name} TO '{value}';" for name, value in settings.items())


def _calls(settings: Mapping[str, str], *, local: bool) -> str:
    """Build calls, as SET would take a list such as `a, b` for one name."""
    calls = (
        f"set_config({_text(name)}, {_text(value)}, {local})" for name, value in settings.items()
    )
    return "".join(f"SELECT {call};" for call in calls)


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def is_lost_session(error: BaseException | None) -> bool:
    """Return whether a connection no longer is what it was, though it may still answer."""
    return bool(LOST_SESSION.fullmatch(sqlstate_of(error)))


def sqlstate_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of an error of the driver, or an empty text."""
    return getattr(error, "sqlstate", None) or ""
