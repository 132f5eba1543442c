"""All batches at the remote watched with one request: a hint that saves requests, never a truth."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from harness import EXECUTIONS, Bench, FakeRemote

from worker.schema import batches, now

if TYPE_CHECKING:
    from worker.store.database import Database


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def bench(database: Database, remote: FakeRemote) -> Bench:
    return Bench(database, remote, batch_size=1, poll_min=20.0)


def submit(bench: Bench, count: int = 5, judge_id: str = "judge") -> None:
    """So many batches are at the remote, and no message is under way."""
    bench.enqueue([f"{judge_id} {n}" for n in range(count)], judge_id=judge_id)
    bench.step()
    bench.sent.clear()
    bench.remote.requests.clear()


def asked(remote: FakeRemote) -> list[str]:
    """Which requests were sent: to the list, or for one batch."""
    return ["list" if r.url.path == EXECUTIONS else "batch" for r in remote.requests]


def told(bench: Bench) -> list[UUID]:
    return [batch_id for name, batch_id in bench.sent if name == "poll"]


def make_due(bench: Bench, batch_id: UUID) -> None:
    with bench.database.engine.begin() as connection:
        soon = sa.update(batches).where(batches.c.id == batch_id).values(due_at=now())
        connection.execute(soon)


def due_in(bench: Bench) -> list[float]:
    """Seconds until each batch is read, soonest first."""
    return sorted(
        (row.due_at - row.moment).total_seconds()
        for row in bench.database.run(
            lambda tx: tx.execute(sa.select(batches.c.due_at, now().label("moment"))).all()
        )
    )


def test_one_request_tells_which_of_all_batches_have_ended(
    bench: Bench, remote: FakeRemote
) -> None:
    submit(bench)
    first, second, *_ = remote.batches
    remote.running = {first, second}
    bench.watch.turn()
    assert asked(remote) == ["list"]
    assert len(told(bench)) == 3
    bench.deliver()
    assert asked(remote) == ["list", "batch", "batch", "batch"]
    assert sorted(bench.states()) == ["finished"] * 3 + ["submitted"] * 2


def test_polls_of_batches_that_run_on_are_put_off(bench: Bench, remote: FakeRemote) -> None:
    remote.done = False
    submit(bench)
    bench.pass_time()  # all are due
    bench.watch.turn()
    assert told(bench) == []
    assert min(due_in(bench)) > 5.0


def test_few_batches_are_left_to_their_polls(bench: Bench, remote: FakeRemote) -> None:
    submit(bench, 2)
    bench.watch.turn()
    assert asked(remote) == []


def test_one_replica_reads_the_list_for_all(bench: Bench, remote: FakeRemote) -> None:
    remote.done = False
    submit(bench)
    other = Bench(bench.database, remote)

    def another_comes_meanwhile(_: httpx.Request) -> None:
        other.watch.turn()

    remote.next_answer(another_comes_meanwhile)
    bench.watch.turn()
    assert asked(remote) == ["list"]


def test_where_there_is_no_list_each_batch_is_polled(bench: Bench, remote: FakeRemote) -> None:
    remote.has_list = False
    submit(bench)
    assert bench.watch.turn() > 500
    bench.watch.turn()
    assert asked(remote) == ["list"]
    bench.finish()
    assert bench.every_result_is_at_its_own_input()


def test_a_list_that_lies_about_an_end_is_not_believed_again_at_once(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.done, remote.list_lies = False, True
    submit(bench)
    bench.watch.turn()
    bench.deliver()
    assert asked(remote) == ["list"] + ["batch"] * 5
    bench.sent.clear()
    bench.let_the_watch_be_due()
    bench.watch.turn()
    assert told(bench) == []
    assert asked(remote)[-1] == "list"
    assert set(bench.states()) == {"submitted"}


def test_a_list_that_lies_about_running_does_not_keep_polls_away_for_ever(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.done = False
    submit(bench)
    bench.pass_time(seconds=300.0)
    bench.watch.turn()
    assert asked(remote) == ["list"]
    assert max(due_in(bench)) < 0.0, "they stay due, and their polls will tell"


def test_a_batch_that_somebody_reads_is_left_to_them(bench: Bench, remote: FakeRemote) -> None:
    submit(bench)
    some_id = bench.rows("SELECT batch_id FROM eval_items ORDER BY batch_id")[0][0]
    read = UUID(str(some_id))
    make_due(bench, read)

    def watched_meanwhile(_: httpx.Request) -> None:
        bench.watch.turn()

    remote.next_answer(watched_meanwhile)
    bench.steps.poll(read)
    assert asked(remote) == ["batch", "list"]
    assert len(told(bench)) == 4
    assert read not in told(bench)
    assert bench.states().count("finished") == 1


def test_a_throttled_list_keeps_polls_away_too(bench: Bench, remote: FakeRemote) -> None:
    submit(bench)
    remote.next_answer(lambda _: httpx.Response(429, headers={"Retry-After": "50"}))
    bench.watch.turn()
    assert bench.one("SELECT scope FROM eval_gates") == "api:status"
    bench.watch.turn()
    bench.deliver()
    assert asked(remote) == ["list"]


@pytest.mark.parametrize("ahead", [timedelta(minutes=-1), timedelta(minutes=1)])
def test_the_remotes_clock_may_be_another(
    bench: Bench, remote: FakeRemote, ahead: timedelta
) -> None:
    remote.clock, remote.done = ahead, False
    submit(bench)
    bench.watch.turn()
    bench.let_the_watch_be_due()
    remote.done = True
    bench.watch.turn()
    assert "date_to" in str(remote.requests[-1].url)
    assert len(told(bench)) == 5


def test_batches_of_several_judges_are_watched_together(bench: Bench, remote: FakeRemote) -> None:
    submit(bench, 2, "one")
    submit(bench, 2, "two")
    bench.watch.turn()
    assert asked(remote) == ["list"]
    assert len(told(bench)) == 4
