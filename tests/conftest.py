"""Fixtures: databases empty at the start of every test, brokers with a namespace of its own."""

from __future__ import annotations

import gc
import os
import shutil
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.migrated_databases import MigratedDatabases
from tests.support.servers import (
    AMQP,
    BESIDES_MEMORY,
    PostgresServer,
    ValkeyServer,
    delete_amqp_queues,
    pgbouncer_program,
    rabbitmq_answers,
)
from tests.support.shared_servers import (
    POSTGRES_TEMPLATE,
    begin_run,
    end_run,
    one_process_at_a_time,
    shared_pgbouncer,
    shared_postgres,
    shared_valkey,
    sqlite_template,
)
from worker.config import load_settings
from worker.store.database import Database

# How long an example takes says nothing on a machine on which so much else runs.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # else a process of pytest-xdist's
        begin_run()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        end_run()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let the first process that comes to a module compile it; the others wait for that."""
    if isinstance(collector, pytest.Module):
        with one_process_at_a_time(f"{collector.path.parent.name}-{collector.path.stem}") as first:
            if first:
                return (yield)
    return (yield)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run in random order, but begin with the tests that wait for long: none ends alone.

    These are the ones with a timeout of their own, and then those that start processes.
    """
    for item in items:
        if _is_for_the_other_database(item):
            item.add_marker(pytest.mark.long)
    items.sort(key=_seconds_allowed, reverse=True)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: modules, and thousands of tests."""
    gc.collect()
    gc.freeze()


def _is_for_the_other_database(item: pytest.Item) -> bool:
    """Whether the ordinary run leaves this database out: what is tested does not depend on it."""
    marked = item.get_closest_marker("one_database")
    parameters = getattr(item, "callspec", None)
    if marked is None or parameters is None:
        return False
    return bool(parameters.params.get("database_url", marked.args[0]) != marked.args[0])


def _seconds_allowed(item: pytest.Item) -> float:
    marked = item.get_closest_marker("timeout")
    return float(marked.args[0]) if marked else float("acceptance" in item.path.parts)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has set must not decide what a test sees."""
    for name in list(os.environ):
        if name.startswith(("EVALWORKER_", "ROOTSIGNALS_", "SCORABLE_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    return shared_postgres()


@pytest.fixture(scope="session")
def valkey() -> ValkeyServer:
    return shared_valkey()


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database("template0") as url:
        yield url


@pytest.fixture(scope="session")
def migrated_databases(postgres: PostgresServer) -> MigratedDatabases:
    return MigratedDatabases(postgres, POSTGRES_TEMPLATE)


@pytest.fixture
def postgres_url(migrated_databases: MigratedDatabases) -> Iterator[str]:
    """A migrated and empty PostgreSQL database, which no other test uses meanwhile."""
    with migrated_databases.database() as url:
        yield url


@pytest.fixture
def new_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """Copy a migrated database, for plans: they depend on the space that deleted rows left, too."""
    with postgres.database(POSTGRES_TEMPLATE) as url:
        yield url


@pytest.fixture
def pgbouncer_url(postgres: PostgresServer, postgres_url: str) -> str:
    """The same database through PgBouncer in transaction mode."""
    return pooled_url(postgres, postgres_url, mode="transaction")


def pooled_url(postgres: PostgresServer, url: str, *, mode: str) -> str:
    if pgbouncer_program() is None:
        pytest.skip("PgBouncer is not installed: `apt-get install pgbouncer`")
    return shared_pgbouncer(postgres, mode).url(url)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/evalworker.db"


@pytest.fixture
def sqlite_url(empty_sqlite_url: str) -> str:
    """A migrated SQLite file of this test's own."""
    shutil.copyfile(sqlite_template(), empty_sqlite_url.removeprefix("sqlite:///"))
    return empty_sqlite_url


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"empty_{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each test that asks for it runs on both databases; see the marker `one_database`."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(load_settings(database_url=database_url).sqlalchemy_url)
    yield opened
    opened.close()


@pytest.fixture
def database_of_postgres(postgres_url: str) -> Iterator[Database]:
    opened = Database(load_settings(database_url=postgres_url).sqlalchemy_url)
    yield opened
    opened.close()


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def redis_url(valkey: ValkeyServer, namespace: str) -> str:
    return valkey.url(namespace)


@pytest.fixture
def amqp_url(namespace: str) -> Iterator[str]:
    if not rabbitmq_answers():
        pytest.skip("no RabbitMQ answers on its standard port, and it has no wheel")
    yield f"{AMQP}?namespace={namespace}"
    delete_amqp_queues(namespace)


@pytest.fixture
def memory_url(namespace: str) -> str:
    return f"memory://?namespace={namespace}"


@pytest.fixture(params=["memory", *BESIDES_MEMORY])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each test that asks for it runs over every broker."""
    name = "postgres_url" if request.param == "postgres" else f"{request.param}_url"
    return str(request.getfixturevalue(name))
