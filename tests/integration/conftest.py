"""Fixtures of the tests that drive one replica by hand."""

from __future__ import annotations

import pytest

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.store.database import Database


@pytest.fixture
def remote() -> FakeJudgeAPI:
    return FakeJudgeAPI()


@pytest.fixture
def replica(database: Database, remote: FakeJudgeAPI) -> ManualReplica:
    return ManualReplica(database, remote)
