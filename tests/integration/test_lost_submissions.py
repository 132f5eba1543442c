"""Submissions whose response was lost, or whose process died: looked for, sent again or held."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.fake_judge_api import AcceptedBatch, FakeJudgeAPI, answering, questions
from tests.support.manual_replica import ManualReplica
from worker.store import batch_commands, job_queries
from worker.store.database import Database


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


def test_a_lost_answer_is_found_where_tags_are_cut(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = remote.head

    def with_cut_tags(batch: AcceptedBatch) -> dict[str, Any]:
        return {**head(batch), "tags": [tag[:40] for tag in batch.tags]}

    monkeypatch.setattr(remote, "head", with_cut_tags)
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(questions(3))
    replica.finish()
    assert remote.posts() == 1


def test_a_lost_answer_is_found_in_a_list_without_an_end(
    replica: ManualReplica, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_page = "https://judge.test/v1/judges/batch-executions/?cursor=same"

    def page_without_end(rows: list[Any], _: object) -> httpx.Response:
        return httpx.Response(200, json={"next": next_page, "results": rows})

    monkeypatch.setattr(remote, "page", page_without_end)
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(questions(3))
    replica.finish()
    assert remote.posts() == 1


def test_a_redirect_to_the_new_batch_is_searched_for_instead_of_sent_again(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def see_other(request: httpx.Request) -> httpx.Response:
        url = remote.accept(request).json()["status_url"]
        return httpx.Response(303, headers={"location": url})

    remote.next_answer(see_other)
    replica.enqueue(questions(3))
    replica.finish()
    assert remote.posts() == 1


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
