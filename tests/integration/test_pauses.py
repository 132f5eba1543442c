"""A pause: nothing new goes to a judge, or to any, until a person says so; the rest goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.support.harness import Bench, FakeRemote
from worker.store import job_queries, pauses
from worker.store.tables import batches

if TYPE_CHECKING:
    from worker.store.database import Database


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database, FakeRemote(), batch_size=2, max_in_flight=2)


def pause(bench: Bench, judge_id: str | None = None) -> bool:
    return bench.database.run(lambda tx: pauses.pause(tx, judge_id, "the judge is being changed"))


def resume(bench: Bench, judge_id: str | None = None) -> bool:
    return bench.database.run(lambda tx: pauses.resume(tx, judge_id))


def has_work(bench: Bench, *, also_paused: bool = False) -> bool:
    with bench.database.read() as connection:
        return not job_queries.is_drained(connection, include_paused=also_paused)


@pytest.mark.parametrize("judge_id", [None, "judge"])
def test_nothing_is_submitted_while_paused_and_all_of_it_afterwards(
    bench: Bench, judge_id: str | None
) -> None:
    pause(bench, judge_id)
    bench.enqueue(["a", "b", "c"])
    for _ in range(3):
        bench.step()
        bench.pass_time()
    assert (bench.remote.posts(), bench.batches()) == (0, [])
    assert not has_work(bench)
    assert has_work(bench, also_paused=True)
    assert resume(bench, judge_id)
    assert has_work(bench)
    bench.finish()
    assert len(bench.remote.inputs()) == 3


def test_what_is_at_the_remote_is_polled_and_recorded_while_paused(bench: Bench) -> None:
    bench.remote.done = False
    bench.enqueue(["a", "b"])
    bench.step()
    pause(bench)
    bench.remote.done = True
    assert has_work(bench)
    bench.pass_time()
    bench.step()
    assert bench.states() == ["finished"]
    assert bench.open_jobs() == 0
    assert not has_work(bench, also_paused=True)


def test_a_submission_in_doubt_is_looked_for_while_paused_but_not_sent_again(
    bench: Bench,
) -> None:
    bench.remote.next_answer(bench.remote.accept_and_lose)
    bench.enqueue(["a"])
    bench.step()
    bench.enqueue(["never arrived"])
    assert bench.states() == ["unknown"]
    pause(bench)
    bench.pass_time()
    bench.step()
    assert bench.states() == ["submitted"]

    bench.remote.batches.clear()  # and one that is not there
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_batches SET state = 'unknown'")
    for _ in range(6):
        bench.pass_time()
        bench.step()
    assert bench.states() == ["planned"]
    assert bench.remote.posts() == 1
    resume(bench)
    bench.finish()
    assert bench.remote.posts() == 3


def test_a_planned_batch_waits_behind_the_pause_and_is_due_at_its_end(bench: Bench) -> None:
    bench.enqueue(["a"])
    bench.dispatcher.turn()
    pause(bench, "judge")
    bench.deliver()
    assert bench.batches() == [("planned", "paused: the judge is being changed")]
    assert not has_work(bench)
    assert bench.one("SELECT claims FROM eval_batches") == 0
    assert resume(bench, "judge")
    with bench.database.read() as connection:
        (batch_id,) = connection.scalars(sa.select(batches.c.id)).all()
    bench.submitter.submit(batch_id)
    assert bench.states() == ["submitted"]


def test_a_pause_of_one_judge_takes_no_places_from_the_others(bench: Bench) -> None:
    bench.enqueue(["a1", "a2", "a3", "a4"], judge_id="a")
    bench.dispatcher.turn()
    assert bench.states() == ["planned", "planned"]  # both places
    pause(bench, "a")
    bench.enqueue(["b1", "b2", "b3", "b4"], judge_id="b")
    for _ in range(3):
        bench.step()
        bench.pass_time()
    assert {given["request"] for given in bench.remote.inputs()} == {"b1", "b2", "b3", "b4"}
    assert bench.states().count("finished") == 2


def test_after_a_pause_no_more_batches_are_at_the_remote_than_allowed(bench: Bench) -> None:
    bench.remote.done = False
    bench.enqueue(["a1", "a2", "a3", "a4"], judge_id="a")
    bench.dispatcher.turn()
    pause(bench, "a")
    bench.enqueue(["b1", "b2", "b3", "b4"], judge_id="b")
    bench.step()
    assert bench.states().count("submitted") == 2
    resume(bench, "a")
    bench.pass_time()
    bench.step()
    assert bench.states().count("submitted") == 2
    bench.remote.done = True
    bench.finish()


def test_pausing_and_resuming_twice_changes_nothing_but_the_reason(bench: Bench) -> None:
    assert pause(bench, "j") is True
    assert bench.database.run(lambda tx: pauses.pause(tx, "j", "another reason")) is False
    with bench.database.read() as connection:
        (shown,) = pauses.list_pauses(connection)
        assert job_queries.closed_gates(connection) == []
    assert (shown.judge_id, shown.reason) == ("j", "another reason")
    assert resume(bench, None) is False  # nobody paused everything
    assert resume(bench, "j") is True
    assert resume(bench, "j") is False
    assert bench.events() == ["gate.closed", "gate.opened"]


def test_an_answer_of_the_remote_does_not_end_a_pause(bench: Bench) -> None:
    bench.remote.done = False
    bench.enqueue(["a"])
    bench.step()
    pause(bench)
    pause(bench, "judge")
    bench.remote.done = True
    bench.pass_time()
    bench.step()
    with bench.database.read() as connection:
        assert [row.judge_id for row in pauses.list_pauses(connection)] == [None, "judge"]
