"""How batches are polled and their results recorded, once, whoever else claims them."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from tests.support.fake_judge_api import FakeJudgeAPI, answering, questions
from tests.support.manual_replica import ManualReplica
from worker.domain.lifecycle import TRANSITIONS, BatchState
from worker.pipeline.actors import _guard
from worker.store import leases, polling
from worker.store.database import Database


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
    for state in ("submitted", "submitted", "lost"):
        replica.step()
        assert replica.states() == [state]
        replica.pass_time()
    replica.finish()
    assert remote.posts() == 2
    assert replica.one("SELECT attempts, status FROM eval_items") == (2, "completed")


def test_one_404_after_a_long_time_is_not_believed(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.enqueue(["q"])
    replica.step()
    replica.pass_time(seconds=600)
    remote.next_answer(answering(404, {"detail": "Not found."}))
    replica.step()
    replica.finish()
    assert remote.posts() == 1


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


def test_the_id_of_each_evaluations_log_is_stored_with_its_own_input(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = remote.evaluate

    def with_log(batch: object, index: int) -> dict[str, object]:
        return evaluate(batch, index) | {"execution_log_id": f"log {index}" if index % 2 else None}

    monkeypatch.setattr(remote, "evaluate", with_log)
    replica.enqueue([*questions(11), "fail me"])
    replica.step()
    replica.pass_time()
    replica.step()
    stored = replica.rows("SELECT item_index, execution_log_id FROM eval_items ORDER BY item_index")
    logs = {index: log_id for index, log_id in stored if index < 11}
    assert logs == {index: f"log {index}" if index % 2 else None for index in range(11)}


def test_a_response_is_recorded_although_a_doubled_message_met_an_outage_meanwhile(
    database: Database, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = ManualReplica(database, remote)
    replica.enqueue(questions(3))
    replica.dispatcher.turn()
    batch_id = str(replica.one("SELECT id FROM eval_batches"))
    step = _guard("submit", replica.submitter.submit, replica.context.record_surprise)
    run = database.run

    def away_once(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(database, "run", run)
        raise OperationalError("UPDATE", {}, Exception("server closed the connection"))

    def meanwhile(_: httpx.Request) -> None:
        monkeypatch.setattr(database, "run", away_once)
        step(batch_id)

    remote.next_answer(meanwhile)
    step(batch_id)
    assert replica.states() == ["submitted"]
