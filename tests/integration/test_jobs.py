"""What a person asks of jobs: cancel, retry, results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.errors import UnknownJob
from worker.store import job_commands, job_queries

if TYPE_CHECKING:
    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=2, max_in_flight=1)


def test_cancelling_sends_nothing_more_and_drops_what_comes_back(replica: ManualReplica) -> None:
    job_id = replica.enqueue([f"q{n}" for n in range(6)])
    replica.step()
    assert replica.database.run(lambda tx: job_commands.cancel(tx, job_id)) == 6
    replica.pass_time()
    for _ in range(4):
        replica.step()
        replica.pass_time()
    assert replica.one("SELECT status, cancelled, completed FROM eval_job_progress") == (
        "cancelled",
        6,
        0,
    )
    assert len(replica.remote.inputs()) == 2
    assert replica.states() == ["finished"]
    assert replica.rows("SELECT * FROM eval_scores") == []


def test_inputs_cancelled_between_planning_and_submitting_close_ranks(
    replica: ManualReplica,
) -> None:
    first = replica.enqueue(["cancelled"])
    second = replica.enqueue(["kept"])
    replica.dispatcher.turn()
    replica.database.run(lambda tx: job_commands.cancel(tx, first))
    replica.finish()
    assert [given["request"] for given in replica.remote.inputs()] == ["kept"]
    assert replica.every_result_is_at_its_own_input()
    with replica.database.read() as connection:
        assert job_queries.progress_of(connection, second).completed == 1


def test_retrying_sends_the_failed_inputs_alone(replica: ManualReplica) -> None:
    job_id = replica.enqueue(["good", "fail"])
    replica.finish()
    assert len(replica.remote.inputs()) == 4
    assert replica.database.run(lambda tx: job_commands.retry(tx, job_id)) == 1
    with replica.database.read() as connection:
        assert job_queries.progress_of(connection, job_id).status == "processing"
    replica.finish()
    assert [given["request"] for given in replica.remote.inputs()] == ["good"] + ["fail"] * 6
    assert replica.one("SELECT count(*) FROM eval_scores") == 1


def test_an_unknown_job_is_an_error(replica: ManualReplica) -> None:
    for ask in (job_commands.cancel, job_commands.retry):
        with pytest.raises(UnknownJob):
            replica.database.run(partial(ask, job_id=uuid4()))


def test_results_come_in_order_with_their_scores(
    replica: ManualReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_queries, "CHUNK_SIZE", 2)
    job_id = replica.enqueue(["a", "bb", "fail", "dddd", "eeeee"])
    replica.finish()
    with replica.database.read() as connection:
        found = list(job_queries.results_of(connection, job_id))
        (mean,) = job_queries.mean_scores(connection, job_id)
        (failure,) = job_queries.failures_of(connection, job_id, 10)
    assert [result.item.request for result in found] == ["a", "bb", "fail", "dddd", "eeeee"]
    assert [[score.score for score in result.scores] for result in found] == [
        [0.01],
        [0.02],
        [],
        [0.04],
        [0.05],
    ]
    assert (mean.evaluator_name, mean.scored) == ("length", 4)
    assert mean.mean == pytest.approx(0.03)
    assert failure.error == "cannot judge fail"
