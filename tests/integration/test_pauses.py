"""A pause: nothing new goes to a judge, or to any, until a person says so; the rest goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.store import job_queries, pauses
from worker.store.tables import batches

if TYPE_CHECKING:
    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=2, max_in_flight=2)


def pause(replica: ManualReplica, judge_id: str | None = None) -> bool:
    return replica.database.run(lambda tx: pauses.pause(tx, judge_id, "the judge is being changed"))


def resume(replica: ManualReplica, judge_id: str | None = None) -> bool:
    return replica.database.run(lambda tx: pauses.resume(tx, judge_id))


def has_work(replica: ManualReplica, *, also_paused: bool = False) -> bool:
    with replica.database.read() as connection:
        return not job_queries.is_drained(connection, include_paused=also_paused)


@pytest.mark.parametrize("judge_id", [None, "judge"])
def test_nothing_is_submitted_while_paused_and_all_of_it_afterwards(
    replica: ManualReplica, judge_id: str | None
) -> None:
    pause(replica, judge_id)
    replica.enqueue(["a", "b", "c"])
    for _ in range(3):
        replica.step()
        replica.pass_time()
    assert (replica.remote.posts(), replica.batches()) == (0, [])
    assert not has_work(replica)
    assert has_work(replica, also_paused=True)
    assert resume(replica, judge_id)
    assert has_work(replica)
    replica.finish()
    assert len(replica.remote.inputs()) == 3


def test_what_is_at_the_remote_is_polled_and_recorded_while_paused(replica: ManualReplica) -> None:
    replica.remote.done = False
    replica.enqueue(["a", "b"])
    replica.step()
    pause(replica)
    replica.remote.done = True
    assert has_work(replica)
    replica.pass_time()
    replica.step()
    assert replica.states() == ["finished"]
    assert replica.open_jobs() == 0
    assert not has_work(replica, also_paused=True)


def test_a_submission_in_doubt_is_looked_for_while_paused_but_not_sent_again(
    replica: ManualReplica,
) -> None:
    replica.remote.next_answer(replica.remote.accept_and_lose)
    replica.enqueue(["a"])
    replica.step()
    replica.enqueue(["never arrived"])
    assert replica.states() == ["unknown"]
    pause(replica)
    replica.pass_time()
    replica.step()
    assert replica.states() == ["submitted"]

    replica.remote.batches.clear()  # and one that is not there
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_batches SET state = 'unknown'")
    for _ in range(6):
        replica.pass_time()
        replica.step()
    assert replica.states() == ["planned"]
    assert replica.remote.posts() == 1
    resume(replica)
    replica.finish()
    assert replica.remote.posts() == 3


def test_a_planned_batch_waits_behind_the_pause_and_is_due_at_its_end(
    replica: ManualReplica,
) -> None:
    replica.enqueue(["a"])
    replica.dispatcher.turn()
    pause(replica, "judge")
    replica.deliver()
    assert replica.batches() == [("planned", "paused: the judge is being changed")]
    assert not has_work(replica)
    assert replica.one("SELECT claims FROM eval_batches") == 0
    assert resume(replica, "judge")
    with replica.database.read() as connection:
        (batch_id,) = connection.scalars(sa.select(batches.c.id)).all()
    replica.submitter.submit(batch_id)
    assert replica.states() == ["submitted"]


def test_a_pause_of_one_judge_takes_no_places_from_the_others(replica: ManualReplica) -> None:
    replica.enqueue(["a1", "a2", "a3", "a4"], judge_id="a")
    replica.dispatcher.turn()
    assert replica.states() == ["planned", "planned"]  # both places
    pause(replica, "a")
    replica.enqueue(["b1", "b2", "b3", "b4"], judge_id="b")
    for _ in range(3):
        replica.step()
        replica.pass_time()
    assert {given["request"] for given in replica.remote.inputs()} == {"b1", "b2", "b3", "b4"}
    assert replica.states().count("finished") == 2


def test_after_a_pause_no_more_batches_are_at_the_remote_than_allowed(
    replica: ManualReplica,
) -> None:
    replica.remote.done = False
    replica.enqueue(["a1", "a2", "a3", "a4"], judge_id="a")
    replica.dispatcher.turn()
    pause(replica, "a")
    replica.enqueue(["b1", "b2", "b3", "b4"], judge_id="b")
    replica.step()
    assert replica.states().count("submitted") == 2
    resume(replica, "a")
    replica.pass_time()
    replica.step()
    assert replica.states().count("submitted") == 2
    replica.remote.done = True
    replica.finish()


def test_pausing_and_resuming_twice_changes_nothing_but_the_reason(replica: ManualReplica) -> None:
    assert pause(replica, "j") is True
    assert replica.database.run(lambda tx: pauses.pause(tx, "j", "another reason")) is False
    with replica.database.read() as connection:
        (shown,) = pauses.list_pauses(connection)
        assert job_queries.closed_gates(connection) == []
    assert (shown.judge_id, shown.reason) == ("j", "another reason")
    assert resume(replica, None) is False  # nobody paused everything
    assert resume(replica, "j") is True
    assert resume(replica, "j") is False
    assert replica.events() == ["gate.closed", "gate.closed", "gate.opened"]


def test_an_answer_of_the_remote_does_not_end_a_pause(replica: ManualReplica) -> None:
    replica.remote.done = False
    replica.enqueue(["a"])
    replica.step()
    pause(replica)
    pause(replica, "judge")
    replica.remote.done = True
    replica.pass_time()
    replica.step()
    with replica.database.read() as connection:
        assert [row.judge_id for row in pauses.list_pauses(connection)] == [None, "judge"]
