"""Fixtures: replicas that are driven by hand, and what they and their users talk to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest

from tests.support import gateways
from tests.support.consoles import open_console
from tests.support.database_logins import Logins, granted
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.model_endpoint import ModelEndpoint
from tests.support.servers import PostgresServer
from tests.support.webhook_receiver import WebhookReceiver, running_receiver
from worker.store.database import Database


@pytest.fixture
def remote() -> FakeJudgeAPI:
    return FakeJudgeAPI()


@pytest.fixture
def replica(database: Database, remote: FakeJudgeAPI) -> ManualReplica:
    return ManualReplica(database, remote)


@pytest.fixture
def lite(sqlite_url: str) -> Iterator[Database]:
    """A database for tests to which it makes no difference which one it is."""
    with contextlib.closing(Database(sqlite_url)) as opened:
        yield opened


@pytest.fixture
def gateway_url(database: Database) -> Iterator[str]:
    with gateways.running_gateway(database) as found:
        yield found


@pytest.fixture
def caller(gateway_url: str) -> Iterator[httpx.Client]:
    """A client of that gateway, with a key."""
    with gateways.client(gateway_url) as given:
        yield given


@pytest.fixture
def client(database: Database) -> Iterator[httpx.Client]:
    """A client of a console that asks for no key."""
    with open_console(database) as opened:
        yield opened


@pytest.fixture
def model() -> Iterator[ModelEndpoint]:
    with ModelEndpoint().running() as endpoint:
        yield endpoint


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with running_receiver() as found:
        yield found


@pytest.fixture
def logins(postgres: PostgresServer) -> Iterator[Logins]:
    with granted(postgres) as found:
        yield found


@pytest.fixture(scope="module")
def standing(postgres: PostgresServer) -> Iterator[Logins]:
    """For tests that leave nothing behind."""
    with granted(postgres) as found:
        yield found
