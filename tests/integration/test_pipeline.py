"""The life of a batch, step by step, on both databases, against a remote that may misbehave."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from tests.support.fake_judge_api import AcceptedBatch, FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.domain.lifecycle import TRANSITIONS, BatchState
from worker.store import batch_commands, gates, job_queries, leases, polling
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def remote() -> FakeJudgeAPI:
    return FakeJudgeAPI()


@pytest.fixture
def replica(database: Database, remote: FakeJudgeAPI) -> ManualReplica:
    return ManualReplica(database, remote)


def answering(status: int, body: Any = None, **headers: str) -> Callable[[httpx.Request], Any]:
    return lambda _: httpx.Response(status, json=body or {"detail": "no"}, headers=headers)


def questions(count: int) -> list[str]:
    return [f"question {n}" for n in range(count)]


# --- planning -----------------------------------------------------------------------------------


def test_items_of_several_jobs_share_a_batch(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    for n in range(30):
        replica.enqueue([f"a{n}", f"b{n}"], tags=["x"])
    replica.enqueue(["elsewhere"], tags=["y"])
    replica.enqueue(["other judge"], judge_id="second")
    replica.finish()
    sizes = sorted(len(batch.inputs) for batch in remote.batches.values())
    assert sizes == [1, 1, 60]
    assert replica.one("SELECT count(*) FROM eval_jobs WHERE status = 'completed'") == 32
    assert replica.every_result_is_at_its_own_input()


def test_higher_priorities_go_first_and_equals_in_turn(database: Database) -> None:
    remote = FakeJudgeAPI()
    replica = ManualReplica(database, remote, batch_size=2, max_in_flight=2)
    replica.enqueue(questions(20), judge_id="big")
    replica.enqueue(["small"], judge_id="small")
    replica.step()
    assert sorted(batch.judge_id for batch in remote.batches.values()) == ["big", "small"]
    replica.enqueue(["urgent 1", "urgent 2", "urgent 3"], judge_id="urgent", priority=5)
    replica.pass_time()
    replica.step()
    replica.step()
    last_two = list(remote.batches.values())[-2:]
    assert [batch.judge_id for batch in last_two] == ["urgent", "urgent"]


def test_no_more_batches_are_live_than_allowed(database: Database) -> None:
    remote = FakeJudgeAPI()
    remote.done = False
    replica = ManualReplica(database, remote, batch_size=1, max_in_flight=3)
    replica.enqueue(questions(10))
    for _ in range(4):
        replica.step()
        replica.pass_time()
    assert len(remote.batches) == 3
    remote.done = True
    replica.finish()
    assert len(remote.batches) == 10


def test_a_part_filled_batch_waits_for_company(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.context.policy = replace(replica.context.policy, linger=1000.0)
    replica.enqueue(questions(150))
    replica.step()
    assert [len(batch.inputs) for batch in remote.batches.values()] == [100]
    replica.enqueue(questions(50))
    replica.step()
    assert [len(batch.inputs) for batch in remote.batches.values()] == [100, 100]


def test_a_job_without_inputs_fails_with_that_reason(replica: ManualReplica) -> None:
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_jobs (judge_id, created_at)"
            " VALUES ('judge', '2020-01-01 00:00:00.000000+00:00')"
        )
    replica.finish()
    assert replica.one("SELECT status, error FROM eval_jobs") == ("failed", "the job has no inputs")


def test_bad_rows_by_plain_sql_fail_alone(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    job_id = replica.enqueue(["good", "bad", "also good", "emptied"])
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            'UPDATE eval_items SET contexts = \'{"not": "a list"}\' WHERE item_index = 1'
        )
        connection.exec_driver_sql(
            "UPDATE eval_items SET request = NULL, response = ' ', expected_output = 'an answer'"
            " WHERE item_index = 3"
        )
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id, tags) VALUES ('j', '[\"\"]')")
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id) VALUES ('')")
        connection.exec_driver_sql(f"INSERT INTO eval_jobs (judge_id) VALUES ('{'j' * 9000}')")
    replica.finish()
    assert replica.rows("SELECT item_index, status FROM eval_items ORDER BY item_index") == [
        (0, "completed"),
        (1, "failed"),
        (2, "completed"),
        (3, "failed"),
    ]
    assert replica.one("SELECT error FROM eval_items WHERE item_index = 3") == (
        "needs `request`, `response` or `turns`; found: response (empty), expected_output"
    )
    assert "contexts must be a list" in replica.one(
        "SELECT error FROM eval_items WHERE item_index=1"
    )
    failed = replica.rows("SELECT error FROM eval_jobs WHERE status = 'failed' ORDER BY error")
    assert [error for (error,) in failed] == [
        "judge_id is too long: 9,000 characters, 255 are allowed",
        "judge_id must not be empty",
        "tags[0] must not be empty",
    ]
    assert [given["request"] for given in remote.inputs()] == ["good", "also good"]
    assert replica.every_result_is_at_its_own_input()
    assert job_id


def test_text_that_is_not_json_on_sqlite_stops_nothing(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.enqueue(["good"])
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id, tags) VALUES ('j', '[oops')")
    replica.finish()
    assert replica.rows("SELECT status, error FROM eval_jobs ORDER BY status") == [
        ("completed", None),
        ("failed", "tags must be a list of strings, not a string"),
    ]
    database.close()


def test_inputs_that_come_after_the_jobs_end_are_not_left_lying(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    job_id = replica.enqueue(["early"])
    replica.finish()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO eval_items (job_id, item_index, request) VALUES ('{job_id}', 1, 'late')"
        )
    replica.dispatcher._sweeps_at = float("-inf")
    replica.finish()
    assert [given["request"] for given in remote.inputs()] == ["early", "late"]
    assert replica.one("SELECT status, completed FROM eval_job_progress") == ("completed", 2)


# --- submitting ---------------------------------------------------------------------------------


def test_submitting_is_committed_before_the_post_leaves(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    seen: list[str] = []

    def look(_: httpx.Request) -> None:
        seen.append(replica.one("SELECT state FROM eval_batches"))

    remote.next_answer(look)
    replica.enqueue(["q"])
    replica.step()
    assert seen == ["submitting"]
    assert replica.states() == ["submitted"]


def test_a_lost_answer_is_found_by_its_tag_and_nothing_is_sent_again(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(questions(3))
    replica.step()
    assert replica.states() == ["unknown"]
    replica.finish()
    assert (remote.posts(), len(remote.batches)) == (1, 1)
    assert replica.one("SELECT status FROM eval_jobs") == "completed"


def test_a_lost_answer_is_found_by_content_where_tags_are_not_shown(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.shows_tags = False
    replica.enqueue(["other 1", "other 2", "other 3"], tags=["x"])
    replica.step()
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(questions(3), tags=["y"])
    replica.finish()
    assert (remote.posts(), len(remote.batches)) == (2, 2)
    assert replica.every_result_is_at_its_own_input()


def test_two_equal_batches_in_doubt_take_different_remote_ones(
    database: Database, remote: FakeJudgeAPI
) -> None:
    remote.shows_tags = False
    replica = ManualReplica(database, remote, batch_size=1)
    remote.next_answer(remote.accept_and_lose)
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["same", "same"])
    replica.finish()
    assert (remote.posts(), len(remote.batches)) == (2, 2)
    assert len(set(replica.rows("SELECT remote_batch_id FROM eval_batches"))) == 2


def test_a_submission_that_never_arrived_is_sent_again_after_several_looks(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def lost_on_the_way(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    remote.next_answer(lost_on_the_way)
    replica.enqueue(questions(2))
    replica.finish()
    assert (remote.posts(), len(remote.batches)) == (2, 1)
    looks = sum(event == "batch.searched" for event in replica.events())
    assert looks == 3  # the fourth look is the one that gives up


def test_without_a_list_it_is_sent_again_or_held_as_set(database: Database) -> None:
    remote = FakeJudgeAPI()
    remote.has_list = False
    replica = ManualReplica(database, remote, resubmit_unlisted=False)
    replica.enqueue(["served"])
    replica.finish()
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["q"])
    for _ in range(3):
        replica.step()
        replica.pass_time()
    assert remote.posts() == 2
    batch_id, error = replica.one("SELECT id, error FROM eval_batches WHERE state = 'held'")
    assert error.startswith("there is no list to search")
    database.run(lambda tx: batch_commands.resolve(tx, UUID(str(batch_id)), resubmit=True))
    replica.finish()
    assert remote.posts() == 3
    again = ManualReplica(database, remote, resubmit_unlisted=True)
    again.enqueue(["served, too"])
    again.finish()
    remote.next_answer(remote.accept_and_lose)
    again.enqueue(["another"])
    again.finish()
    assert remote.posts() == 6


def test_without_a_list_a_batch_is_held_in_the_end_if_nothing_else_was_ever_served(
    database: Database,
) -> None:
    """Whether the URL is right cannot be told, so it is not sent again unasked."""
    remote = FakeJudgeAPI()
    remote.has_list = False
    replica = ManualReplica(database, remote, batch_timeout=0.0)
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["q"])
    replica.step()
    replica.pass_time()
    replica.step()
    ((state, error),) = replica.batches()
    assert state == "held"
    assert error.startswith("there is no list to search")
    assert remote.posts() == 1


def test_a_batch_whose_holders_keep_dying_is_set_aside_and_can_be_resolved(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    class Killed(BaseException):
        pass

    def die(_: httpx.Request) -> httpx.Response:
        raise Killed

    replica.enqueue(["poison"])
    replica.step()
    for _ in range(5):
        remote.next_answer(die)
        replica.pass_time()
        replica.sent.clear()
        replica.dispatcher.turn()
        with pytest.raises(Killed):
            replica.deliver()
    replica.pass_time()
    replica.step()
    ((state, error),) = replica.batches()
    assert (state, error) == ("held", "5 processes in a row died while they held it")
    with replica.database.read() as connection:
        assert job_queries.is_drained(connection)
        (held,) = job_queries.held_batches(connection)
    assert held.item_count == 1
    assert replica.database.run(partial(batch_commands.resolve, batch_id=held.id, resubmit=False))
    replica.finish()
    assert remote.posts() == 1
    assert (
        replica.database.run(partial(batch_commands.resolve, batch_id=held.id, resubmit=False))
        is None
    )


def test_a_batch_left_submitting_by_a_dead_process_is_looked_for(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    class Killed(BaseException):
        pass

    def die(request: httpx.Request) -> httpx.Response:
        remote.accept(request)
        raise Killed

    remote.next_answer(die)
    replica.enqueue(questions(3))
    with pytest.raises(Killed):
        replica.step()
    assert replica.states() == ["submitting"]
    survivor = ManualReplica(replica.database, remote)
    survivor.step()
    assert replica.states() == ["submitting"]  # the lease still stands
    survivor.pass_time()
    survivor.finish()
    assert remote.posts() == 1
    assert replica.one("SELECT status FROM eval_jobs") == "completed"


def test_one_bad_input_fails_alone_after_logarithmically_many_requests(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def picky(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, picky)
        if request.method == "POST" and b"question 37" in request.content:
            return httpx.Response(400, json={"inputs": ["question 37 is not acceptable"]})
        return None

    remote.next_answer(picky)
    replica.enqueue(questions(100))
    replica.finish()
    assert replica.one("SELECT completed, failed, status FROM eval_job_progress") == (
        99,
        1,
        "completed",
    )
    failed = replica.one("SELECT item_index, error FROM eval_items WHERE status = 'failed'")
    assert failed[0] == 37
    assert "question 37 is not acceptable" in failed[1]
    assert remote.posts() <= 2 * 7 + 1  # 2 log2(100) and the first
    assert len(remote.inputs()) == 99
    assert replica.every_result_is_at_its_own_input()


def test_a_batch_that_is_too_large_is_split_without_blame(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def small_only(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, small_only)
        if request.method == "POST" and request.content.count(b'"request"') > 30:
            return httpx.Response(413, json={"detail": "too large"})
        return None

    remote.next_answer(small_only)
    replica.enqueue(questions(100))
    replica.finish()
    assert replica.one("SELECT completed, failed FROM eval_job_progress") == (100, 0)
    assert all(len(batch.inputs) == 25 for batch in remote.batches.values())


def test_an_unknown_judge_fails_its_items_with_the_apis_words(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.next_answer(answering(404, {"detail": "No Judge matches the given query."}))
    replica.enqueue(questions(3))
    replica.finish()
    status, error = replica.one("SELECT status, error FROM eval_jobs")
    assert status == "failed"
    assert "No Judge matches the given query." in error


def test_with_a_wrong_key_all_waits_until_it_is_mended(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(questions(3), judge_id="one")
    replica.enqueue(questions(3), judge_id="two")
    remote.next_answer(answering(401, {"detail": "Invalid API key.", "code": "x"}))
    replica.step()
    assert remote.posts() == 1  # the second batch did not even try
    assert replica.one("SELECT scope FROM eval_gates") == "api"
    for _ in range(3):
        remote.next_answer(answering(401, {"detail": "Invalid API key."}))
        replica.pass_time()
        replica.step()
        replica.step()
    assert remote.posts() == 4  # one probe each time
    assert replica.one("SELECT count(*) FROM eval_items WHERE attempts > 0") == 0
    remote.answers.clear()
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_jobs WHERE status = 'completed'") == 2
    assert replica.rows("SELECT * FROM eval_gates") == []


def test_a_missing_permission_stops_its_judge_alone(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def forbid_one(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, forbid_one)
        if "/judges/one/" in request.url.path:
            return httpx.Response(403, json={"detail": "no permission", "code": "x"})
        return None

    remote.next_answer(forbid_one)
    replica.enqueue(questions(2), judge_id="one")
    replica.enqueue(questions(2), judge_id="two")
    for _ in range(4):
        replica.step()
        replica.pass_time()
    assert replica.one("SELECT status FROM eval_jobs WHERE judge_id = 'two'") == "completed"
    assert replica.one("SELECT scope FROM eval_gates") == "judge:one"


def test_a_throttle_waits_as_long_as_it_says_and_spends_no_attempt(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.next_answer(answering(429, {"detail": "throttled"}, **{"Retry-After": "17"}))
    replica.enqueue(questions(2))
    replica.step()
    replica.step()
    assert remote.posts() == 1
    with replica.database.read() as connection:
        from worker.store.sql_functions import now
        from worker.store.tables import gates

        opens_at, moment = connection.execute(
            gates.select().with_only_columns(gates.c.opens_at, now())
        ).one()
    assert 15 < (opens_at - moment).total_seconds() < 19
    replica.finish()
    assert replica.one("SELECT max(attempts) FROM eval_items") == 1


def test_a_throttle_of_submissions_is_not_ended_by_a_poll(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    replica.enqueue(["first"])
    replica.step()
    remote.next_answer(answering(429, **{"Retry-After": "100"}))
    replica.enqueue(["second"])
    replica.dispatcher.turn()
    sent, replica.sent = replica.sent, []
    replica.pass_time()
    for name, batch_id in sorted(sent, reverse=True):  # the submission, then the poll
        replica.run_step(name, batch_id)
    replica.step()
    assert [request.method for request in remote.requests] == ["POST", "POST", "GET"]
    assert replica.one("SELECT scope FROM eval_gates") == "api:submit"


def test_a_throttle_in_the_middle_of_a_search_ends_it_for_its_time(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.shows_tags = False
    remote.batches["another's"] = AcceptedBatch(
        id="another's", judge_id="judge", inputs=[{"request": "x"}], created_at=datetime.now(UTC)
    )
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["q"])
    replica.step()
    replica.pass_time()
    remote.next_answer(lambda _: None)  # the list is read
    remote.next_answer(answering(429, **{"Retry-After": "100"}))
    replica.step()
    replica.step()
    assert [request.method for request in remote.requests] == ["POST", "GET", "GET"]
    assert replica.one("SELECT scope FROM eval_gates WHERE closed_at IS NOT NULL") == "api:status"
    replica.finish()
    assert remote.posts() == 1


def test_batches_in_doubt_are_searched_for_one_after_the_other(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    for n in range(2):
        remote.next_answer(remote.accept_and_lose)
        replica.enqueue([f"q{n}"], judge_id=f"judge {n}")
    replica.step()
    assert replica.states() == ["unknown", "unknown"]
    replica.pass_time()
    remote.requests.clear()
    first, second = (
        UUID(str(i)) for (i,) in replica.rows("SELECT id FROM eval_batches ORDER BY id")
    )

    def search_for_the_other_meanwhile(_: httpx.Request) -> None:
        replica.submitter.submit(second)

    remote.next_answer(search_for_the_other_meanwhile)
    replica.submitter.submit(first)
    assert len(remote.requests) == 1
    assert replica.states() == ["submitted", "unknown"]
    replica.finish()
    assert replica.every_result_is_at_its_own_input()
    assert remote.posts() == 0, "both were found"


def test_a_swarm_of_refusals_counts_as_one(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    def refuse_the_next_meanwhile(_: httpx.Request) -> httpx.Response:
        if waiting:
            remote.next_answer(refuse_the_next_meanwhile)
            replica.submitter.submit(waiting.pop())
        return httpx.Response(429)

    for n in range(8):
        replica.enqueue([f"one of judge {n}"], judge_id=f"judge {n}")
    replica.dispatcher.turn()
    waiting = [batch_id for _, batch_id in replica.sent]
    remote.next_answer(refuse_the_next_meanwhile)
    replica.submitter.submit(waiting.pop())
    assert remote.posts() == 8
    assert replica.one("SELECT failures FROM eval_gates") == 1
    replica.pass_time()
    remote.next_answer(answering(429, **{"Retry-After": "100"}))
    replica.step()
    assert remote.posts() == 9
    assert replica.one("SELECT failures FROM eval_gates") == 2


def test_a_throttle_is_not_ended_by_what_was_under_way_before_it(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def throttle_another_meanwhile(request: httpx.Request) -> None:
        remote.next_answer(answering(429, **{"Retry-After": "100"}))
        replica.submitter.submit(second)

    replica.enqueue(["first"], judge_id="one")
    replica.enqueue(["second"], judge_id="two")
    replica.dispatcher.turn()
    (_, first), (_, second) = replica.sent
    remote.next_answer(throttle_another_meanwhile)
    replica.submitter.submit(first)
    replica.submitter.submit(second)
    assert remote.posts() == 2
    assert replica.one("SELECT scope FROM eval_gates") == "api:submit"
    replica.finish()
    assert replica.rows("SELECT scope FROM eval_gates") == []


def test_a_probe_that_is_answered_late_does_not_end_the_throttle_that_came_meanwhile(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    """The gate has been closed since before the probe asked: what counts is the last refusal."""

    def throttle_another_meanwhile(_: httpx.Request) -> None:
        replica.pass_time()  # so long that another probe is let through
        remote.next_answer(answering(429, **{"Retry-After": "100"}))
        replica.poller.poll(second)

    replica.enqueue(["first"], judge_id="one")
    replica.enqueue(["second"], judge_id="two")
    replica.step()
    (_, first), (_, second) = replica.sent
    remote.next_answer(answering(429))
    replica.pass_time()
    replica.poller.poll(first)
    replica.pass_time()
    remote.next_answer(throttle_another_meanwhile)
    replica.poller.poll(first)
    assert replica.states().count("finished") == 1
    waits = replica.database.run(lambda tx: gates.find_closed(tx, ["api:status"]))
    assert waits is not None
    assert waits.wait > 90


def test_of_two_throttles_the_longer_one_holds(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    """Two requests were under way; the one that is answered last is told to wait less."""

    def throttle_another_meanwhile(request: httpx.Request) -> httpx.Response:
        remote.next_answer(answering(429, **{"Retry-After": "100"}))
        replica.submitter.submit(second)
        return httpx.Response(429, headers={"Retry-After": "5"}, request=request)

    replica.enqueue(["first"], judge_id="one")
    replica.enqueue(["second"], judge_id="two")
    replica.enqueue(["third"], judge_id="three")
    replica.dispatcher.turn()
    (_, first), (_, second), (_, third) = replica.sent
    remote.next_answer(throttle_another_meanwhile)
    replica.submitter.submit(first)
    replica.submitter.submit(third)
    assert remote.posts() == 2
    waits = replica.database.run(lambda tx: gates.find_closed(tx, ["api:submit"]))
    assert waits is not None
    assert waits.wait > 90


def test_an_outage_costs_a_handful_of_requests_and_no_attempts(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        remote.answers.insert(0, refuse)
        raise httpx.ConnectError("refused", request=request)

    remote.next_answer(refuse)
    for n in range(10):
        replica.enqueue(questions(2), judge_id=f"judge {n}")
    for _ in range(10):
        replica.step()
    tried = len(remote.requests)
    assert tried <= 4  # until the gate closes
    for probes in range(1, 4):
        replica.pass_time()
        replica.step()
        replica.step()
        assert len(remote.requests) <= tried + probes
    remote.answers.clear()
    replica.finish()
    assert replica.one("SELECT max(attempts) FROM eval_items") == 1
    assert len(remote.batches) == 10


# --- polling ------------------------------------------------------------------------------------


def test_failed_items_are_tried_again_in_a_later_batch_then_kept_with_the_reason(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["good", "fail me", "fine"])
    replica.finish()
    sent = [given["request"] for given in remote.inputs()]
    assert sorted(sent) == ["fail me", "fail me", "fail me", "fine", "good"]
    assert replica.rows(
        "SELECT status, attempts, error FROM eval_item_results ORDER BY item_index"
    ) == [("completed", 1, None), ("failed", 3, "cannot judge fail me"), ("completed", 1, None)]
    assert replica.one("SELECT status, completed, failed FROM eval_job_progress") == (
        "completed",
        2,
        1,
    )


def test_a_job_of_which_nothing_could_be_evaluated_fails(replica: ManualReplica) -> None:
    replica.enqueue(["fail 1", "fail 2"])
    replica.finish()
    status, error = replica.one("SELECT status, error FROM eval_jobs")
    assert status == "failed"
    assert "cannot judge fail 1" in error


def test_a_fresh_batch_may_answer_404_for_a_moment(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["q"])
    replica.step()
    remote.next_answer(answering(404))
    replica.pass_time()
    replica.step()
    assert replica.states() == ["submitted"]
    replica.finish()
    assert remote.posts() == 1


def test_a_batch_that_is_gone_for_long_is_lost_and_its_items_wait_again(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["q"])
    replica.step()
    remote.batches.clear()
    replica.pass_time(seconds=600)
    replica.step()
    assert replica.states() == ["lost"]
    replica.pass_time()
    replica.finish()
    assert remote.posts() == 2
    assert replica.one("SELECT attempts, status FROM eval_items") == (2, "completed")


def test_a_batch_without_an_end_is_lost_after_its_timeout(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.done = False
    replica.enqueue(["q"])
    replica.step()
    replica.pass_time(seconds=3599)
    replica.step()
    assert replica.states() == ["submitted"]
    replica.pass_time(seconds=3700)
    replica.step()
    assert replica.states() == ["lost"]


@pytest.mark.parametrize("status", ["queued", "reticulating", "cancelling"])
def test_an_unknown_status_means_keep_waiting_and_is_told_once(
    replica: ManualReplica, remote: FakeJudgeAPI, status: str
) -> None:
    replica.enqueue(["q"])
    replica.step()
    (batch_id,) = remote.batches
    for _ in range(3):
        odd = {**remote.execution(remote.batches[batch_id]), "status": status}
        remote.next_answer(answering(200, odd))
        replica.pass_time()
        replica.step()
    assert replica.states() == ["submitted"]
    assert replica.events().count("batch.unknown_status") == 1
    replica.finish()


@pytest.mark.parametrize("status", ["partial", "failed"])
def test_every_end_records_what_there_is_and_retries_the_rest(
    replica: ManualReplica, remote: FakeJudgeAPI, status: str
) -> None:
    replica.enqueue(questions(3))
    replica.step()
    (batch_id,) = remote.batches
    execution = remote.execution(remote.batches[batch_id]) | {"status": status}
    execution["items"][1] |= {"status": "failed", "error_message": "evaluator down"}
    execution["items"].reverse()
    remote.next_answer(answering(200, execution))
    replica.pass_time()
    replica.step()
    assert replica.one("SELECT completed, waiting FROM eval_job_progress") == (2, 1)
    replica.finish()
    assert replica.one("SELECT completed FROM eval_job_progress") == 3
    assert [given["request"] for given in remote.inputs()][-1] == "question 1"
    assert replica.every_result_is_at_its_own_input()


def test_items_missing_from_an_ended_batch_are_asked_for_again_then_retried(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(questions(3))
    replica.step()
    (batch_id,) = remote.batches
    for _ in range(4):
        execution = remote.execution(remote.batches[batch_id])
        del execution["items"][2]
        remote.next_answer(answering(200, execution))
        replica.pass_time()
        replica.step()
    assert replica.states() == ["finished"]
    replica.finish()
    assert [given["request"] for given in remote.inputs()][-1] == "question 2"
    assert replica.every_result_is_at_its_own_input()


@pytest.mark.parametrize(
    "lie",
    [
        b"not json",
        b'{"detail": "an error with status 200"}',
        b'{"batch_execution_id": "another", "status": "completed", "items": []}',
        b'{"batch_execution_id": ',
        b"[]",
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_no_batch_changes_nothing(
    replica: ManualReplica, remote: FakeJudgeAPI, lie: bytes
) -> None:
    replica.enqueue(["q"])
    replica.step()
    remote.next_answer(lambda _: httpx.Response(200, content=lie))
    replica.pass_time()
    replica.step()
    assert replica.states() == ["submitted"]
    replica.finish()
    assert remote.posts() == 1


def test_what_the_database_cannot_hold_is_kept_in_an_escaped_form(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["q"])
    replica.step()
    (batch_id,) = remote.batches
    execution = remote.execution(remote.batches[batch_id])
    execution["items"][0]["evaluator_results"] = [
        {"evaluator_name": "a\x00", "score": "0.9?", "justification": "\x00", "new": {"\x00": 1}},
        {"evaluator_name": "b", "score": 7.5, "justification": None},
        {"evaluator_name": "b", "score": None, "justification": 12},
    ]
    remote.next_answer(answering(200, execution))
    replica.pass_time()
    replica.step()
    assert replica.rows("SELECT evaluator_name, score, justification FROM eval_scores") == [
        ("a\\u0000", None, "\\u0000"),
        ("b", 7.5, None),
        ("b", None, "12"),
    ]
    assert "0.9?" in str(
        replica.one("SELECT extra FROM eval_evaluator_results WHERE extra IS NOT NULL")
    )


def test_the_scores_view_names_the_version_that_ran(replica: ManualReplica) -> None:
    replica.enqueue(["q"], tags=["t"])
    replica.finish()
    assert replica.one("SELECT DISTINCT judge_version_id FROM eval_scores") == "version-that-ran"


# --- claims -------------------------------------------------------------------------------------


def test_a_doubled_message_finds_nothing_to_claim(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["q"])
    replica.dispatcher.turn()
    replica.sent *= 3
    replica.deliver()
    assert remote.posts() == 1
    replica.pass_time()
    replica.sent *= 3
    replica.deliver()
    assert replica.one("SELECT count(*) FROM eval_evaluator_results") == 1


def test_a_stale_poller_cannot_overwrite_a_finished_batch(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["q"])
    replica.step()
    replica.sent.clear()
    other = ManualReplica(replica.database, remote)

    def meanwhile(_: httpx.Request) -> None:
        """While this poll is under way, its lease runs out and another replica finishes."""
        remote._lock.release()
        replica.pass_time()
        other.finish()
        remote._lock.acquire()

    remote.next_answer(meanwhile)
    replica.pass_time()
    batch_id = replica.one("SELECT id FROM eval_batches")
    replica.poller.poll(UUID(str(batch_id)))
    assert replica.events().count("batch.finished") == 1
    assert replica.one("SELECT count(*) FROM eval_evaluator_results") == 1
    assert replica.one("SELECT attempts FROM eval_items") == 1


def test_a_record_that_is_run_again_after_its_commit_changes_nothing(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    """The answer to a commit can get lost; what was recorded then is there already."""
    remote.done = False
    replica.enqueue(["q"])
    replica.step()
    replica.pass_time()
    batch_id = UUID(str(replica.one("SELECT id FROM eval_batches")))
    held = replica.database.run(
        lambda tx: polling.claim_poll(tx, batch_id, holder="this", lease=30.0)
    )
    assert held is not None
    recorded = [
        replica.database.run(
            lambda tx: polling.record_poll_failed(tx, held, reason="503: oops", wait=1.0)
        )
        for _ in range(2)
    ]
    assert recorded == [True, False]
    assert replica.events().count("batch.waits") == 1


def test_lost_messages_are_sent_again(replica: ManualReplica) -> None:
    replica.enqueue(["q"])
    replica.dispatcher.turn()
    replica.sent.clear()
    replica.dispatcher.turn()
    assert replica.sent == []  # only just sent: not lost yet
    replica.pass_time()
    replica.dispatcher.turn()
    assert [name for name, _ in replica.sent] == ["submit"]


def test_no_transition_is_made_that_the_lifecycle_does_not_allow(replica: ManualReplica) -> None:
    replica.enqueue(["q"])
    replica.dispatcher.turn()
    (_, batch_id) = replica.sent[0]
    statement = leases.build_claim(BatchState.PLANNED)
    claim = replica.database.run(
        lambda tx: leases.claim_batch(tx, statement, batch_id, holder="h", lease=30)
    )
    assert claim is not None
    for state in set(BatchState) - TRANSITIONS[BatchState.PLANNED] - {BatchState.PLANNED}:
        with pytest.raises(ValueError, match="never goes"):
            replica.database.run(partial(leases.move, claim=claim, to=state))


def test_a_surprise_becomes_a_row_and_work_goes_on(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.pipeline.actors import _guard

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    replica.enqueue(["q"])
    replica.dispatcher.turn()
    (_, batch_id) = replica.sent.pop()
    with monkeypatch.context() as patched:
        patched.setattr(replica.context.api, "submit", broken)
        _guard("submit", replica.submitter.submit, replica.context.record_surprise)(str(batch_id))
    ((state, error),) = replica.batches()
    assert (state, error) == ("submitting", "KeyError: 'a bug'")
    replica.pass_time()
    replica.finish()
    assert replica.one("SELECT status FROM eval_jobs") == "completed"
