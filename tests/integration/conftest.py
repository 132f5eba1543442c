"""Fixtures that several test modules share: replicas driven by hand, receivers, logins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.database_logins import Logins, granted
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
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
