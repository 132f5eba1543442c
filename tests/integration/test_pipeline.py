"""The life of a batch, step by step, on both databases, against a remote that may misbehave."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from tests.support.harness import Bench, FakeRemote
from worker.domain.lifecycle import TRANSITIONS, BatchState
from worker.store import gates, job_queries, leases, polling
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def bench(database: Database, remote: FakeRemote) -> Bench:
    return Bench(database, remote)


def answering(status: int, body: Any = None, **headers: str) -> Callable[[httpx.Request], Any]:
    return lambda _: httpx.Response(status, json=body or {"detail": "no"}, headers=headers)


def questions(count: int) -> list[str]:
    return [f"question {n}" for n in range(count)]


# --- planning -----------------------------------------------------------------------------------


def test_items_of_several_jobs_share_a_batch(bench: Bench, remote: FakeRemote) -> None:
    for n in range(30):
        bench.enqueue([f"a{n}", f"b{n}"], tags=["x"])
    bench.enqueue(["elsewhere"], tags=["y"])
    bench.enqueue(["other judge"], judge_id="second")
    bench.finish()
    sizes = sorted(len(batch["body"]["inputs"]) for batch in remote.batches.values())
    assert sizes == [1, 1, 60]
    assert bench.one("SELECT count(*) FROM eval_jobs WHERE status = 'completed'") == 32
    assert bench.every_result_is_at_its_own_input()


def test_higher_priorities_go_first_and_equals_in_turn(database: Database) -> None:
    remote = FakeRemote()
    bench = Bench(database, remote, batch_size=2, max_in_flight=2)
    bench.enqueue(questions(20), judge_id="big")
    bench.enqueue(["small"], judge_id="small")
    bench.step()
    assert sorted(batch["judge_id"] for batch in remote.batches.values()) == ["big", "small"]
    bench.enqueue(["urgent 1", "urgent 2", "urgent 3"], judge_id="urgent", priority=5)
    bench.pass_time()
    bench.step()
    bench.step()
    last_two = list(remote.batches.values())[-2:]
    assert [batch["judge_id"] for batch in last_two] == ["urgent", "urgent"]


def test_no_more_batches_are_live_than_allowed(database: Database) -> None:
    remote = FakeRemote()
    remote.done = False
    bench = Bench(database, remote, batch_size=1, max_in_flight=3)
    bench.enqueue(questions(10))
    for _ in range(4):
        bench.step()
        bench.pass_time()
    assert len(remote.batches) == 3
    remote.done = True
    bench.finish()
    assert len(remote.batches) == 10


def test_a_part_filled_batch_waits_for_company(bench: Bench, remote: FakeRemote) -> None:
    bench.dispatcher.linger = 1000.0
    bench.enqueue(questions(150))
    bench.step()
    assert [len(batch["body"]["inputs"]) for batch in remote.batches.values()] == [100]
    bench.enqueue(questions(50))
    bench.step()
    assert [len(batch["body"]["inputs"]) for batch in remote.batches.values()] == [100, 100]


def test_a_job_without_inputs_fails_with_that_reason(bench: Bench) -> None:
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_jobs (judge_id, created_at)"
            " VALUES ('judge', '2020-01-01 00:00:00.000000+00:00')"
        )
    bench.finish()
    assert bench.one("SELECT status, error FROM eval_jobs") == ("failed", "the job has no inputs")


def test_bad_rows_by_plain_sql_fail_alone(bench: Bench, remote: FakeRemote) -> None:
    job_id = bench.enqueue(["good", "bad", "also good"])
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql(
            'UPDATE eval_items SET contexts = \'{"not": "a list"}\' WHERE item_index = 1'
        )
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id, tags) VALUES ('j', '[\"\"]')")
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id) VALUES ('')")
    bench.finish()
    assert bench.rows("SELECT item_index, status FROM eval_items ORDER BY item_index") == [
        (0, "completed"),
        (1, "failed"),
        (2, "completed"),
    ]
    assert "contexts must be a list" in bench.one("SELECT error FROM eval_items WHERE item_index=1")
    failed = bench.rows("SELECT error FROM eval_jobs WHERE status = 'failed' ORDER BY error")
    assert [error for (error,) in failed] == [
        "judge_id must not be empty",
        "tags[0] must not be empty",
    ]
    assert [given["request"] for given in remote.inputs()] == ["good", "also good"]
    assert bench.every_result_is_at_its_own_input()
    assert job_id


def test_text_that_is_not_json_on_sqlite_stops_nothing(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    bench = Bench(database, FakeRemote())
    bench.enqueue(["good"])
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id, tags) VALUES ('j', '[oops')")
    bench.finish()
    assert bench.rows("SELECT status, error FROM eval_jobs ORDER BY status") == [
        ("completed", None),
        ("failed", "tags must be a list of strings, not a string"),
    ]
    database.close()


def test_inputs_that_come_after_the_jobs_end_are_not_left_lying(
    bench: Bench, remote: FakeRemote
) -> None:
    job_id = bench.enqueue(["early"])
    bench.finish()
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO eval_items (job_id, item_index, request) VALUES ('{job_id}', 1, 'late')"
        )
    bench.dispatcher._sweeps_at = float("-inf")
    bench.finish()
    assert [given["request"] for given in remote.inputs()] == ["early", "late"]
    assert bench.one("SELECT status, completed FROM eval_job_progress") == ("completed", 2)


# --- submitting ---------------------------------------------------------------------------------


def test_submitting_is_committed_before_the_post_leaves(bench: Bench, remote: FakeRemote) -> None:
    seen: list[str] = []

    def look(_: httpx.Request) -> None:
        seen.append(bench.one("SELECT state FROM eval_batches"))

    remote.next_answer(look)
    bench.enqueue(["q"])
    bench.step()
    assert seen == ["submitting"]
    assert bench.states() == ["submitted"]


def test_a_lost_answer_is_found_by_its_tag_and_nothing_is_sent_again(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.next_answer(remote.accept_and_lose)
    bench.enqueue(questions(3))
    bench.step()
    assert bench.states() == ["unknown"]
    bench.finish()
    assert (remote.posts(), len(remote.batches)) == (1, 1)
    assert bench.one("SELECT status FROM eval_jobs") == "completed"


def test_a_lost_answer_is_found_by_content_where_tags_are_not_shown(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.shows_tags = False
    bench.enqueue(["other 1", "other 2", "other 3"], tags=["x"])
    bench.step()
    remote.next_answer(remote.accept_and_lose)
    bench.enqueue(questions(3), tags=["y"])
    bench.finish()
    assert (remote.posts(), len(remote.batches)) == (2, 2)
    assert bench.every_result_is_at_its_own_input()


def test_two_equal_batches_in_doubt_take_different_remote_ones(
    database: Database, remote: FakeRemote
) -> None:
    remote.shows_tags = False
    bench = Bench(database, remote, batch_size=1)
    remote.next_answer(remote.accept_and_lose)
    remote.next_answer(remote.accept_and_lose)
    bench.enqueue(["same", "same"])
    bench.finish()
    assert (remote.posts(), len(remote.batches)) == (2, 2)
    assert len(set(bench.rows("SELECT remote_batch_id FROM eval_batches"))) == 2


def test_a_submission_that_never_arrived_is_sent_again_after_several_looks(
    bench: Bench, remote: FakeRemote
) -> None:
    def lost_on_the_way(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    remote.next_answer(lost_on_the_way)
    bench.enqueue(questions(2))
    bench.finish()
    assert (remote.posts(), len(remote.batches)) == (2, 1)
    looks = sum(event == "batch.searched" for event in bench.events())
    assert looks == 3  # the fourth look is the one that gives up


def test_without_a_list_it_is_sent_again_or_held_as_set(database: Database) -> None:
    remote = FakeRemote()
    remote.has_list = False
    bench = Bench(database, remote, resubmit_unlisted=False)
    remote.next_answer(remote.accept_and_lose)
    bench.enqueue(["q"])
    for _ in range(3):
        bench.step()
        bench.pass_time()
    assert remote.posts() == 1
    ((state, error),) = bench.batches()
    assert state == "held"
    assert error.startswith("there is no list to search")
    batch_id = UUID(str(bench.one("SELECT id FROM eval_batches")))
    database.run(lambda tx: leases.resolve(tx, batch_id, resubmit=True))
    bench.finish()
    assert remote.posts() == 2
    again = Bench(database, remote, resubmit_unlisted=True)
    remote.next_answer(remote.accept_and_lose)
    again.enqueue(["another"])
    again.finish()
    assert remote.posts() == 4


def test_a_batch_whose_holders_keep_dying_is_set_aside_and_can_be_resolved(
    bench: Bench, remote: FakeRemote
) -> None:
    class Killed(BaseException):
        pass

    def die(_: httpx.Request) -> httpx.Response:
        raise Killed

    bench.enqueue(["poison"])
    bench.step()
    for _ in range(5):
        remote.next_answer(die)
        bench.pass_time()
        bench.sent.clear()
        bench.dispatcher.turn()
        with pytest.raises(Killed):
            bench.deliver()
    bench.pass_time()
    bench.step()
    ((state, error),) = bench.batches()
    assert (state, error) == ("held", "5 processes in a row died while they held it")
    with bench.database.read() as connection:
        assert job_queries.is_drained(connection)
        (held,) = job_queries.held_batches(connection)
    assert held.item_count == 1
    assert bench.database.run(partial(leases.resolve, batch_id=held.id, resubmit=False))
    bench.finish()
    assert remote.posts() == 1
    assert bench.database.run(partial(leases.resolve, batch_id=held.id, resubmit=False)) is None


def test_a_batch_left_submitting_by_a_dead_process_is_looked_for(
    bench: Bench, remote: FakeRemote
) -> None:
    class Killed(BaseException):
        pass

    def die(request: httpx.Request) -> httpx.Response:
        remote.accept(request)
        raise Killed

    remote.next_answer(die)
    bench.enqueue(questions(3))
    with pytest.raises(Killed):
        bench.step()
    assert bench.states() == ["submitting"]
    survivor = Bench(bench.database, remote)
    survivor.step()
    assert bench.states() == ["submitting"]  # the lease still stands
    survivor.pass_time()
    survivor.finish()
    assert remote.posts() == 1
    assert bench.one("SELECT status FROM eval_jobs") == "completed"


def test_one_bad_input_fails_alone_after_logarithmically_many_requests(
    bench: Bench, remote: FakeRemote
) -> None:
    def picky(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, picky)
        if request.method == "POST" and b"question 37" in request.content:
            return httpx.Response(400, json={"inputs": ["question 37 is not acceptable"]})
        return None

    remote.next_answer(picky)
    bench.enqueue(questions(100))
    bench.finish()
    assert bench.one("SELECT completed, failed, status FROM eval_job_progress") == (
        99,
        1,
        "completed",
    )
    failed = bench.one("SELECT item_index, error FROM eval_items WHERE status = 'failed'")
    assert failed[0] == 37
    assert "question 37 is not acceptable" in failed[1]
    assert remote.posts() <= 2 * 7 + 1  # 2 log2(100) and the first
    assert len(remote.inputs()) == 99
    assert bench.every_result_is_at_its_own_input()


def test_a_batch_that_is_too_large_is_split_without_blame(bench: Bench, remote: FakeRemote) -> None:
    def small_only(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, small_only)
        if request.method == "POST" and request.content.count(b'"request"') > 30:
            return httpx.Response(413, json={"detail": "too large"})
        return None

    remote.next_answer(small_only)
    bench.enqueue(questions(100))
    bench.finish()
    assert bench.one("SELECT completed, failed FROM eval_job_progress") == (100, 0)
    assert all(len(batch["body"]["inputs"]) == 25 for batch in remote.batches.values())


def test_an_unknown_judge_fails_its_items_with_the_apis_words(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.next_answer(answering(404, {"detail": "No Judge matches the given query."}))
    bench.enqueue(questions(3))
    bench.finish()
    status, error = bench.one("SELECT status, error FROM eval_jobs")
    assert status == "failed"
    assert "No Judge matches the given query." in error


def test_with_a_wrong_key_all_waits_until_it_is_mended(bench: Bench, remote: FakeRemote) -> None:
    bench.enqueue(questions(3), judge_id="one")
    bench.enqueue(questions(3), judge_id="two")
    remote.next_answer(answering(401, {"detail": "Invalid API key.", "code": "x"}))
    bench.step()
    assert remote.posts() == 1  # the second batch did not even try
    assert bench.one("SELECT scope FROM eval_gates") == "api"
    for _ in range(3):
        remote.next_answer(answering(401, {"detail": "Invalid API key."}))
        bench.pass_time()
        bench.step()
        bench.step()
    assert remote.posts() == 4  # one probe each time
    assert bench.one("SELECT count(*) FROM eval_items WHERE attempts > 0") == 0
    remote.answers.clear()
    bench.finish()
    assert bench.one("SELECT count(*) FROM eval_jobs WHERE status = 'completed'") == 2
    assert bench.rows("SELECT * FROM eval_gates") == []


def test_a_missing_permission_stops_its_judge_alone(bench: Bench, remote: FakeRemote) -> None:
    def forbid_one(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, forbid_one)
        if "/judges/one/" in request.url.path:
            return httpx.Response(403, json={"detail": "no permission", "code": "x"})
        return None

    remote.next_answer(forbid_one)
    bench.enqueue(questions(2), judge_id="one")
    bench.enqueue(questions(2), judge_id="two")
    for _ in range(4):
        bench.step()
        bench.pass_time()
    assert bench.one("SELECT status FROM eval_jobs WHERE judge_id = 'two'") == "completed"
    assert bench.one("SELECT scope FROM eval_gates") == "judge:one"


def test_a_throttle_waits_as_long_as_it_says_and_spends_no_attempt(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.next_answer(answering(429, {"detail": "throttled"}, **{"Retry-After": "17"}))
    bench.enqueue(questions(2))
    bench.step()
    bench.step()
    assert remote.posts() == 1
    with bench.database.read() as connection:
        from worker.store.sql_functions import now
        from worker.store.tables import gates

        opens_at, moment = connection.execute(
            gates.select().with_only_columns(gates.c.opens_at, now())
        ).one()
    assert 15 < (opens_at - moment).total_seconds() < 19
    bench.finish()
    assert bench.one("SELECT max(attempts) FROM eval_items") == 1


def test_a_throttle_of_submissions_is_not_ended_by_a_poll(bench: Bench, remote: FakeRemote) -> None:
    remote.done = False
    bench.enqueue(["first"])
    bench.step()
    remote.next_answer(answering(429, **{"Retry-After": "100"}))
    bench.enqueue(["second"])
    bench.dispatcher.turn()
    sent, bench.sent = bench.sent, []
    bench.pass_time()
    for name, batch_id in sorted(sent, reverse=True):  # the submission, then the poll
        bench.run_step(name, batch_id)
    bench.step()
    assert [request.method for request in remote.requests] == ["POST", "POST", "GET"]
    assert bench.one("SELECT scope FROM eval_gates") == "api:submit"


def test_a_throttle_in_the_middle_of_a_search_ends_it_for_its_time(
    bench: Bench, remote: FakeRemote
) -> None:
    remote.shows_tags = False
    remote.batches["another's"] = {
        "body": {"inputs": [{"request": "x"}]},
        "judge_id": "judge",
        "created_at": datetime.now(UTC),
    }
    remote.next_answer(remote.accept_and_lose)
    bench.enqueue(["q"])
    bench.step()
    bench.pass_time()
    remote.next_answer(lambda _: None)  # the list is read
    remote.next_answer(answering(429, **{"Retry-After": "100"}))
    bench.step()
    bench.step()
    assert [request.method for request in remote.requests] == ["POST", "GET", "GET"]
    assert bench.one("SELECT scope FROM eval_gates WHERE closed_at IS NOT NULL") == "api:status"
    bench.finish()
    assert remote.posts() == 1


def test_batches_in_doubt_are_searched_for_one_after_the_other(
    bench: Bench, remote: FakeRemote
) -> None:
    for n in range(2):
        remote.next_answer(remote.accept_and_lose)
        bench.enqueue([f"q{n}"], judge_id=f"judge {n}")
    bench.step()
    assert bench.states() == ["unknown", "unknown"]
    bench.pass_time()
    remote.requests.clear()
    first, second = (UUID(str(i)) for (i,) in bench.rows("SELECT id FROM eval_batches ORDER BY id"))

    def search_for_the_other_meanwhile(_: httpx.Request) -> None:
        bench.submitter.submit(second)

    remote.next_answer(search_for_the_other_meanwhile)
    bench.submitter.submit(first)
    assert len(remote.requests) == 1
    assert bench.states() == ["submitted", "unknown"]
    bench.finish()
    assert bench.every_result_is_at_its_own_input()
    assert remote.posts() == 0, "both were found"


def test_a_swarm_of_refusals_counts_as_one(bench: Bench, remote: FakeRemote) -> None:
    def refuse_the_next_meanwhile(_: httpx.Request) -> httpx.Response:
        if waiting:
            remote.next_answer(refuse_the_next_meanwhile)
            bench.submitter.submit(waiting.pop())
        return httpx.Response(429)

    for n in range(8):
        bench.enqueue([f"one of judge {n}"], judge_id=f"judge {n}")
    bench.dispatcher.turn()
    waiting = [batch_id for _, batch_id in bench.sent]
    remote.next_answer(refuse_the_next_meanwhile)
    bench.submitter.submit(waiting.pop())
    assert remote.posts() == 8
    assert bench.one("SELECT failures FROM eval_gates") == 1
    bench.pass_time()
    remote.next_answer(answering(429))
    bench.step()
    assert remote.posts() == 9
    assert bench.one("SELECT failures FROM eval_gates") == 2


def test_a_throttle_is_not_ended_by_what_was_under_way_before_it(
    bench: Bench, remote: FakeRemote
) -> None:
    def throttle_another_meanwhile(request: httpx.Request) -> None:
        remote.next_answer(answering(429, **{"Retry-After": "100"}))
        bench.submitter.submit(second)

    bench.enqueue(["first"], judge_id="one")
    bench.enqueue(["second"], judge_id="two")
    bench.dispatcher.turn()
    (_, first), (_, second) = bench.sent
    remote.next_answer(throttle_another_meanwhile)
    bench.submitter.submit(first)
    bench.submitter.submit(second)
    assert remote.posts() == 2
    assert bench.one("SELECT scope FROM eval_gates") == "api:submit"
    bench.finish()
    assert bench.rows("SELECT scope FROM eval_gates") == []


def test_a_probe_that_is_answered_late_does_not_end_the_throttle_that_came_meanwhile(
    bench: Bench, remote: FakeRemote
) -> None:
    """The gate has been closed since before the probe asked: what counts is the last refusal."""

    def throttle_another_meanwhile(_: httpx.Request) -> None:
        bench.pass_time()  # so long that another probe is let through
        remote.next_answer(answering(429, **{"Retry-After": "100"}))
        bench.poller.poll(second)

    bench.enqueue(["first"], judge_id="one")
    bench.enqueue(["second"], judge_id="two")
    bench.step()
    (_, first), (_, second) = bench.sent
    remote.next_answer(answering(429))
    bench.pass_time()
    bench.poller.poll(first)
    bench.pass_time()
    remote.next_answer(throttle_another_meanwhile)
    bench.poller.poll(first)
    assert bench.states().count("finished") == 1
    waits = bench.database.run(lambda tx: gates.find_closed(tx, ["api:status"]))
    assert waits is not None
    assert waits.wait > 90


def test_of_two_throttles_the_longer_one_holds(bench: Bench, remote: FakeRemote) -> None:
    """Two requests were under way; the one that is answered last is told to wait less."""

    def throttle_another_meanwhile(request: httpx.Request) -> httpx.Response:
        remote.next_answer(answering(429, **{"Retry-After": "100"}))
        bench.submitter.submit(second)
        return httpx.Response(429, headers={"Retry-After": "5"}, request=request)

    bench.enqueue(["first"], judge_id="one")
    bench.enqueue(["second"], judge_id="two")
    bench.enqueue(["third"], judge_id="three")
    bench.dispatcher.turn()
    (_, first), (_, second), (_, third) = bench.sent
    remote.next_answer(throttle_another_meanwhile)
    bench.submitter.submit(first)
    bench.submitter.submit(third)
    assert remote.posts() == 2
    waits = bench.database.run(lambda tx: gates.find_closed(tx, ["api:submit"]))
    assert waits is not None
    assert waits.wait > 90


def test_an_outage_costs_a_handful_of_requests_and_no_attempts(
    bench: Bench, remote: FakeRemote
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        remote.answers.insert(0, refuse)
        raise httpx.ConnectError("refused", request=request)

    remote.next_answer(refuse)
    for n in range(10):
        bench.enqueue(questions(2), judge_id=f"judge {n}")
    for _ in range(10):
        bench.step()
    tried = len(remote.requests)
    assert tried <= 4  # until the gate closes
    for probes in range(1, 4):
        bench.pass_time()
        bench.step()
        bench.step()
        assert len(remote.requests) <= tried + probes
    remote.answers.clear()
    bench.finish()
    assert bench.one("SELECT max(attempts) FROM eval_items") == 1
    assert len(remote.batches) == 10


# --- polling ------------------------------------------------------------------------------------


def test_failed_items_are_tried_again_in_a_later_batch_then_kept_with_the_reason(
    bench: Bench, remote: FakeRemote
) -> None:
    bench.enqueue(["good", "fail me", "fine"])
    bench.finish()
    sent = [given["request"] for given in remote.inputs()]
    assert sorted(sent) == ["fail me", "fail me", "fail me", "fine", "good"]
    assert bench.rows(
        "SELECT status, attempts, error FROM eval_item_results ORDER BY item_index"
    ) == [
        ("completed", 1, None),
        ("failed", 3, "cannot judge fail me"),
        ("completed", 1, None),
    ]
    assert bench.one("SELECT status, completed, failed FROM eval_job_progress") == (
        "completed",
        2,
        1,
    )


def test_a_job_of_which_nothing_could_be_evaluated_fails(bench: Bench) -> None:
    bench.enqueue(["fail 1", "fail 2"])
    bench.finish()
    status, error = bench.one("SELECT status, error FROM eval_jobs")
    assert status == "failed"
    assert "cannot judge fail 1" in error


def test_a_fresh_batch_may_answer_404_for_a_moment(bench: Bench, remote: FakeRemote) -> None:
    bench.enqueue(["q"])
    bench.step()
    remote.next_answer(answering(404))
    bench.pass_time()
    bench.step()
    assert bench.states() == ["submitted"]
    bench.finish()
    assert remote.posts() == 1


def test_a_batch_that_is_gone_for_long_is_lost_and_its_items_wait_again(
    bench: Bench, remote: FakeRemote
) -> None:
    bench.enqueue(["q"])
    bench.step()
    remote.batches.clear()
    bench.pass_time(seconds=600)
    bench.step()
    assert bench.states() == ["lost"]
    bench.pass_time()
    bench.finish()
    assert remote.posts() == 2
    assert bench.one("SELECT attempts, status FROM eval_items") == (2, "completed")


def test_a_batch_without_an_end_is_lost_after_its_timeout(bench: Bench, remote: FakeRemote) -> None:
    remote.done = False
    bench.enqueue(["q"])
    bench.step()
    bench.pass_time(seconds=3599)
    bench.step()
    assert bench.states() == ["submitted"]
    bench.pass_time(seconds=3700)
    bench.step()
    assert bench.states() == ["lost"]


@pytest.mark.parametrize("status", ["queued", "COMPLETED", "cancelling"])
def test_an_unknown_status_means_keep_waiting_and_is_told_once(
    bench: Bench, remote: FakeRemote, status: str
) -> None:
    bench.enqueue(["q"])
    bench.step()
    (batch_id,) = remote.batches
    for _ in range(3):
        odd = {**remote.execution(batch_id), "status": status}
        remote.next_answer(answering(200, odd))
        bench.pass_time()
        bench.step()
    assert bench.states() == ["submitted"]
    assert bench.events().count("batch.unknown_status") == 1
    bench.finish()


@pytest.mark.parametrize("status", ["partial", "failed"])
def test_every_end_records_what_there_is_and_retries_the_rest(
    bench: Bench, remote: FakeRemote, status: str
) -> None:
    bench.enqueue(questions(3))
    bench.step()
    (batch_id,) = remote.batches
    execution = remote.execution(batch_id) | {"status": status}
    execution["items"][1] |= {"status": "failed", "error_message": "evaluator down"}
    execution["items"].reverse()
    remote.next_answer(answering(200, execution))
    bench.pass_time()
    bench.step()
    assert bench.one("SELECT completed, waiting FROM eval_job_progress") == (2, 1)
    bench.finish()
    assert bench.one("SELECT completed FROM eval_job_progress") == 3
    assert [given["request"] for given in remote.inputs()][-1] == "question 1"
    assert bench.every_result_is_at_its_own_input()


def test_items_missing_from_an_ended_batch_are_asked_for_again_then_retried(
    bench: Bench, remote: FakeRemote
) -> None:
    bench.enqueue(questions(3))
    bench.step()
    (batch_id,) = remote.batches
    for _ in range(4):
        execution = remote.execution(batch_id)
        del execution["items"][2]
        remote.next_answer(answering(200, execution))
        bench.pass_time()
        bench.step()
    assert bench.states() == ["finished"]
    bench.finish()
    assert [given["request"] for given in remote.inputs()][-1] == "question 2"
    assert bench.every_result_is_at_its_own_input()


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
    bench: Bench, remote: FakeRemote, lie: bytes
) -> None:
    bench.enqueue(["q"])
    bench.step()
    remote.next_answer(lambda _: httpx.Response(200, content=lie))
    bench.pass_time()
    bench.step()
    assert bench.states() == ["submitted"]
    bench.finish()
    assert remote.posts() == 1


def test_what_the_database_cannot_hold_is_kept_in_an_escaped_form(
    bench: Bench, remote: FakeRemote
) -> None:
    bench.enqueue(["q"])
    bench.step()
    (batch_id,) = remote.batches
    execution = remote.execution(batch_id)
    execution["items"][0]["evaluator_results"] = [
        {"evaluator_name": "a\x00", "score": "0.9", "justification": "\x00", "new": {"\x00": 1}},
        {"evaluator_name": "b", "score": 7.5, "justification": None},
        {"evaluator_name": "b", "score": None, "justification": 12},
    ]
    remote.next_answer(answering(200, execution))
    bench.pass_time()
    bench.step()
    assert bench.rows("SELECT evaluator_name, score, justification FROM eval_scores") == [
        ("a\\u0000", None, "\\u0000"),
        ("b", 7.5, None),
        ("b", None, "12"),
    ]
    assert "0.9" in str(
        bench.one("SELECT extra FROM eval_evaluator_results WHERE extra IS NOT NULL")
    )


def test_the_scores_view_names_the_version_that_ran(bench: Bench) -> None:
    bench.enqueue(["q"], tags=["t"])
    bench.finish()
    assert bench.one("SELECT DISTINCT judge_version_id FROM eval_scores") == "version-that-ran"


# --- claims -------------------------------------------------------------------------------------


def test_a_doubled_message_finds_nothing_to_claim(bench: Bench, remote: FakeRemote) -> None:
    bench.enqueue(["q"])
    bench.dispatcher.turn()
    bench.sent *= 3
    bench.deliver()
    assert remote.posts() == 1
    bench.pass_time()
    bench.sent *= 3
    bench.deliver()
    assert bench.one("SELECT count(*) FROM eval_evaluator_results") == 1


def test_a_stale_poller_cannot_overwrite_a_finished_batch(bench: Bench, remote: FakeRemote) -> None:
    bench.enqueue(["q"])
    bench.step()
    bench.sent.clear()
    other = Bench(bench.database, remote)

    def meanwhile(_: httpx.Request) -> None:
        """While this poll is under way, its lease runs out and another replica finishes."""
        remote._lock.release()
        bench.pass_time()
        other.finish()
        remote._lock.acquire()

    remote.next_answer(meanwhile)
    bench.pass_time()
    batch_id = bench.one("SELECT id FROM eval_batches")
    bench.poller.poll(UUID(str(batch_id)))
    assert bench.events().count("batch.finished") == 1
    assert bench.one("SELECT count(*) FROM eval_evaluator_results") == 1
    assert bench.one("SELECT attempts FROM eval_items") == 1


def test_a_record_that_is_run_again_after_its_commit_changes_nothing(
    bench: Bench, remote: FakeRemote
) -> None:
    """The answer to a commit can get lost; what was recorded then is there already."""
    remote.done = False
    bench.enqueue(["q"])
    bench.step()
    bench.pass_time()
    batch_id = UUID(str(bench.one("SELECT id FROM eval_batches")))
    held = bench.database.run(
        lambda tx: polling.claim_poll(tx, batch_id, holder="this", lease=30.0)
    )
    assert held is not None
    recorded = [
        bench.database.run(
            lambda tx: polling.record_poll_failed(tx, held, reason="503: oops", wait=1.0)
        )
        for _ in range(2)
    ]
    assert recorded == [True, False]
    assert bench.events().count("batch.waits") == 1


def test_lost_messages_are_sent_again(bench: Bench) -> None:
    bench.enqueue(["q"])
    bench.dispatcher.turn()
    bench.sent.clear()
    bench.dispatcher.turn()
    assert bench.sent == []  # only just sent: not lost yet
    bench.pass_time()
    bench.dispatcher.turn()
    assert [name for name, _ in bench.sent] == ["submit"]


def test_no_transition_is_made_that_the_lifecycle_does_not_allow(bench: Bench) -> None:
    bench.enqueue(["q"])
    bench.dispatcher.turn()
    (_, batch_id) = bench.sent[0]
    statement = leases.build_claim(BatchState.PLANNED)
    claim = bench.database.run(
        lambda tx: leases.claim_batch(tx, statement, batch_id, holder="h", lease=30)
    )
    assert claim is not None
    for state in set(BatchState) - TRANSITIONS[BatchState.PLANNED] - {BatchState.PLANNED}:
        with pytest.raises(ValueError, match="never goes"):
            bench.database.run(partial(leases.move, claim=claim, to=state))


def test_a_surprise_becomes_a_row_and_work_goes_on(
    bench: Bench, remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.pipeline.actors import _guard

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    bench.enqueue(["q"])
    bench.dispatcher.turn()
    (_, batch_id) = bench.sent.pop()
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.api, "submit", broken)
        _guard("submit", bench.submitter.submit, bench.context.record_surprise)(str(batch_id))
    ((state, error),) = bench.batches()
    assert (state, error) == ("submitting", "KeyError: 'a bug'")
    bench.pass_time()
    bench.finish()
    assert bench.one("SELECT status FROM eval_jobs") == "completed"
