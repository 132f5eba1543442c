"""Refusals, throttles and outages: what waits, and for how long, and who may try."""

from __future__ import annotations

from uuid import UUID

import httpx
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI, answering, questions
from tests.support.manual_replica import ManualReplica
from worker.store import gates, tables
from worker.store.database import Database
from worker.store.sql_functions import now


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
        opens_at, moment = connection.execute(sa.select(tables.gates.c.opens_at, now())).one()
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


def test_a_batch_under_way_is_not_taken_from_its_holder_when_a_gate_lets_others_pass(
    database: Database, remote: FakeJudgeAPI
) -> None:
    replica, other = (ManualReplica(database, remote) for _ in range(2))
    replica.enqueue(questions(3))
    remote.next_answer(answering(403, {"detail": "You may not use this judge."}))
    replica.step()
    replica.pass_time()
    batch_id = UUID(str(replica.one("SELECT id FROM eval_batches")))

    def meanwhile(_: httpx.Request) -> None:
        database.run(gates.probe_now)  # as another replica does when it starts
        other.submitter.submit(batch_id)

    remote.next_answer(meanwhile)
    replica.step()
    assert replica.states() == ["submitted"]
    assert "batch.unknown" not in replica.events()
    assert remote.posts() == 2
