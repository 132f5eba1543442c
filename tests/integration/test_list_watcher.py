"""All batches at the remote watched with one request: a hint that saves requests, never a truth."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import EXECUTIONS, FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.pipeline import list_watcher
from worker.store import concurrency_limit, list_watch, tables
from worker.store.sql_functions import later, now
from worker.store.tables import batches

if TYPE_CHECKING:
    from worker.store.database import Database


@pytest.fixture
def remote() -> FakeJudgeAPI:
    return FakeJudgeAPI()


@pytest.fixture
def replica(database: Database, remote: FakeJudgeAPI) -> ManualReplica:
    return ManualReplica(database, remote, batch_size=1, poll_min=20.0)


def submit(replica: ManualReplica, count: int = 5, judge_id: str = "judge") -> None:
    """So many batches are at the remote, and no message is under way."""
    replica.enqueue([f"{judge_id} {n}" for n in range(count)], judge_id=judge_id)
    replica.step()
    replica.sent.clear()
    replica.remote.requests.clear()


def asked(remote: FakeJudgeAPI) -> list[str]:
    """Which requests were sent: to the list, or for one batch."""
    return ["list" if r.url.path == EXECUTIONS else "batch" for r in remote.requests]


def asked_for(remote: FakeJudgeAPI) -> list[str | None]:
    """Which status each request asked for; None: every status."""
    return [request.url.params.get("status") for request in remote.requests]


def told(replica: ManualReplica) -> list[UUID]:
    return [batch_id for name, batch_id in replica.sent if name == "poll"]


def make_due(replica: ManualReplica, batch_id: UUID) -> None:
    with replica.database.engine.begin() as connection:
        soon = sa.update(batches).where(batches.c.id == batch_id).values(due_at=now())
        connection.execute(soon)


def due_in(replica: ManualReplica) -> list[float]:
    """Seconds until each batch is read, soonest first."""
    return sorted(
        (row.due_at - row.moment).total_seconds()
        for row in replica.database.run(
            lambda tx: tx.execute(sa.select(batches.c.due_at, now().label("moment"))).all()
        )
    )


def test_one_request_tells_which_of_all_batches_have_ended(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica)
    first, second, *_ = remote.batches
    remote.running = {first, second}
    replica.list_watcher.turn()
    assert asked(remote) == ["list"]
    assert len(told(replica)) == 3
    replica.deliver()
    assert asked(remote) == ["list", "batch", "batch", "batch"]
    assert sorted(replica.states()) == ["finished"] * 3 + ["submitted"] * 2


def test_polls_of_batches_that_run_on_are_put_off(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    submit(replica)
    replica.pass_time()  # all are due
    replica.list_watcher.turn()
    assert told(replica) == []
    assert min(due_in(replica)) > 5.0


def test_polls_are_put_off_of_batches_that_may_have_ended_before_the_next_read_of_all(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    for _ in range(8):
        replica.context.durations.add("judge", 40.0)
    remote.done = False
    submit(replica)
    replica.pass_time(seconds=25.0)
    replica.list_watcher.turn()
    assert min(due_in(replica)) > 5.0
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert asked(remote) == ["list"], "none of them can have completed yet"


def test_few_batches_are_left_to_their_polls(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    submit(replica, 2)
    replica.list_watcher.turn()
    assert asked(remote) == []


def test_a_created_at_that_is_no_time_says_nothing_of_the_remotes_clock(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = remote.head
    zero = {"created_at": "0001-01-01T00:00:00Z"}
    monkeypatch.setattr(remote, "head", lambda batch: {**head(batch), **zero})
    submit(replica)
    remote.done = False
    for _ in range(2):
        replica.pass_time(seconds=25.0)
        replica.let_the_watch_be_due()
        replica.list_watcher.turn()
    assert asked(remote) == ["list", "list"]


def test_one_replica_reads_the_list_for_all(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    remote.done = False
    submit(replica)
    other = ManualReplica(replica.database, remote)
    other.list_watcher.has_read.set()

    def another_comes_meanwhile(_: httpx.Request) -> None:
        other.list_watcher.turn()

    remote.next_answer(another_comes_meanwhile)
    replica.list_watcher.turn()
    assert asked(remote) == ["list"]


def test_where_there_is_no_list_each_batch_is_polled(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.has_list = False
    submit(replica)
    assert replica.list_watcher.turn() > 500
    replica.list_watcher.turn()
    assert asked(remote) == ["list"]
    replica.finish()
    assert replica.every_result_is_at_its_own_input()


def test_a_list_that_lies_about_an_end_is_not_believed_again_at_once(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done, remote.list_lies = False, True
    submit(replica)
    replica.list_watcher.turn()
    replica.deliver()
    assert asked(remote) == ["list"] + ["batch"] * 5
    replica.sent.clear()
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert told(replica) == []
    assert asked(remote)[-1] == "list"
    assert set(replica.states()) == {"submitted"}


def test_a_list_that_lies_about_running_does_not_keep_polls_away_for_ever(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    submit(replica)
    replica.pass_time(seconds=300.0)
    replica.list_watcher.turn()
    assert asked(remote) == []
    assert max(due_in(replica)) < 0.0, "they stay due, and their polls will tell"


def test_of_very_many_batches_that_are_late_most_are_watched_all_the_same(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_watcher, "MAX_LATE", 2)
    remote.done = False
    submit(replica)
    replica.pass_time(seconds=300.0)
    replica.list_watcher.turn()
    assert asked(remote) == ["list"]
    assert [wait < 0.0 for wait in due_in(replica)] == [True, True, False, False, False]


def test_a_batch_that_somebody_reads_is_left_to_them(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica)
    some_id = replica.rows("SELECT batch_id FROM eval_items ORDER BY batch_id")[0][0]
    read = UUID(str(some_id))
    make_due(replica, read)

    def watched_meanwhile(_: httpx.Request) -> None:
        replica.list_watcher.turn()

    remote.next_answer(watched_meanwhile)
    replica.poller.poll(read)
    assert asked(remote) == ["batch", "list"]
    assert len(told(replica)) == 4
    assert read not in told(replica)
    assert replica.states().count("finished") == 1


def test_the_list_is_not_read_for_a_batch_that_somebody_reads(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica, count=list_watcher.MIN_BATCHES)
    (read, *_) = (row.id for row in replica.rows("SELECT id FROM eval_batches"))
    make_due(replica, UUID(str(read)))
    assert replica.database.run(lambda tx: replica.poller.claim(tx, UUID(str(read)))) is not None
    replica.list_watcher.turn()
    assert asked(remote) == []


def test_a_throttled_list_keeps_polls_away_too(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica)
    remote.next_answer(lambda _: httpx.Response(429, headers={"Retry-After": "50"}))
    replica.list_watcher.turn()
    assert replica.one("SELECT scope FROM eval_gates") == "api:status"
    replica.list_watcher.turn()
    replica.deliver()
    assert asked(remote) == ["list"]


@pytest.mark.parametrize("ahead", [timedelta(minutes=-1), timedelta(minutes=1)])
def test_the_remotes_clock_may_be_another(
    replica: ManualReplica, remote: FakeJudgeAPI, ahead: timedelta
) -> None:
    remote.clock, remote.done = ahead, False
    submit(replica)
    replica.list_watcher.turn()
    replica.let_the_watch_be_due()
    remote.done = True
    replica.list_watcher.turn()
    assert "date_to" in str(remote.requests[-1].url)
    assert len(told(replica)) == 5


def test_batches_of_several_judges_are_watched_together(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica, 2, "one")
    submit(replica, 2, "two")
    replica.list_watcher.turn()
    assert asked(remote) == ["list"]
    assert len(told(replica)) == 4


def test_most_reads_ask_for_completed_batches_alone(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    submit(replica)
    replica.list_watcher.turn()
    first, *_ = remote.batches
    remote.done, remote.running = True, set(remote.batches) - {first}
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert asked_for(remote) == [None, "completed"]
    assert len(told(replica)) == 1


def test_new_batches_are_asked_about_before_they_are_polled(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    submit(replica)
    replica.list_watcher.turn()
    submit(replica)
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert asked_for(remote) == ["completed"], "their polls are not due soon"
    replica.pass_time()
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert asked_for(remote) == ["completed", None]
    assert min(due_in(replica)) > 5.0


def test_batches_that_the_list_does_not_show_are_polled(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.done = False
    submit(replica)
    monkeypatch.setattr(remote, "is_listed", lambda _: False)
    replica.pass_time()
    for _ in range(2):
        replica.let_the_watch_be_due()
        replica.list_watcher.turn()
    assert asked_for(remote) == [None, "completed"], "it need not be asked about them again"
    assert max(due_in(replica)) < 0.0


def test_where_batches_end_in_another_way_all_reads_ask_for_all(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.end = "partial"
    submit(replica)
    first, *_ = remote.batches
    remote.running = set(remote.batches) - {first}
    replica.list_watcher.turn()
    replica.let_the_watch_be_due()
    remote.done, remote.running = True, set()
    replica.list_watcher.turn()
    assert asked_for(remote) == [None, None]
    assert len(told(replica)) == 5


def test_the_last_batches_are_watched_to_their_end(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    """Their polls were put off, because the list would tell."""
    submit(replica, 5)
    *_, last = remote.batches
    remote.running = {last}
    replica.list_watcher.turn()
    replica.deliver()
    assert replica.states().count("finished") == 4
    remote.running = set()
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert len(told(replica)) == 1


def test_a_list_that_takes_no_status_is_asked_for_all(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.filter, remote.done = "refused", False
    submit(replica)
    replica.list_watcher.turn()
    remote.done = True
    for _ in range(3):
        replica.let_the_watch_be_due()
        replica.list_watcher.turn()
    assert asked_for(remote) == [None, "completed", None, None]
    assert len(told(replica)) == 5


def test_the_watch_opens_the_gate_of_a_throttle_whose_time_is_over(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica)
    remote.next_answer(lambda _: httpx.Response(429, headers={"Retry-After": "50"}))
    replica.list_watcher.turn()
    replica.pass_time()
    replica.let_the_watch_be_due()
    replica.list_watcher.turn()
    assert asked(remote) == ["list", "list"]
    assert replica.rows("SELECT scope FROM eval_gates") == []
    assert len(told(replica)) == 0, "they are due anyway"
    replica.dispatcher.turn()
    replica.deliver()
    assert set(replica.states()) == {"finished"}


@pytest.mark.parametrize("status", [404, 500, 429])
def test_a_probe_that_tells_nothing_leaves_the_gate_closed(
    replica: ManualReplica, remote: FakeJudgeAPI, status: int
) -> None:
    submit(replica)
    remote.next_answer(lambda _: httpx.Response(429, headers={"Retry-After": "50"}))
    replica.list_watcher.turn()
    replica.pass_time()
    replica.let_the_watch_be_due()
    remote.next_answer(lambda _: httpx.Response(status, json={"detail": "no"}))
    replica.list_watcher.turn()
    assert replica.one("SELECT failures FROM eval_gates WHERE closed_at IS NOT NULL") == 2
    assert asked(remote) == ["list", "list"]


def test_a_process_that_starts_reads_the_list_whoever_was_to_read_it_next(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    submit(replica)
    replica.list_watcher.turn()
    replica.list_watcher.turn()
    assert asked(remote) == ["list"]
    ManualReplica(replica.database, remote).list_watcher.turn()
    assert asked(remote) == ["list", "list"]


def test_how_long_batches_take_is_learnt_from_the_latest_of_an_earlier_life(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    submit(replica, 2, "one")
    submit(replica, 1, "two")
    replica.finish()
    submit(replica, 1, "three")
    known = replica.database.run(list_watch.latest_durations)
    assert sorted(judge_id for judge_id, _ in known) == ["one", "one", "two"]
    assert all(0.0 <= seconds < 60.0 for _, seconds in known)


def test_of_a_swarm_of_refusals_the_one_that_saw_most_batches_running_sets_the_limit(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def set_back(**columns: Any) -> None:
        with replica.database.engine.begin() as connection:
            connection.execute(sa.update(tables.pace).values(**columns))

    remote.done = False
    submit(replica, 8)
    replica.database.run(concurrency_limit.lower_limit)
    set_back(in_flight_limit=2.0)  # as if the first had come when two were on record
    replica.database.run(concurrency_limit.lower_limit)
    assert replica.one("SELECT in_flight_limit FROM eval_pace") == pytest.approx(8 * 0.95)
    assert replica.events().count("pace.lowered") == 1
    set_back(in_flight_limit=20.0, limited_at=later(sa.literal(-60.0)))
    replica.database.run(concurrency_limit.lower_limit)
    assert replica.one("SELECT in_flight_limit FROM eval_pace") == pytest.approx(8 * 0.95)
    assert replica.events().count("pace.lowered") == 2
