"""What an operator does, by the Python API: retry, cancel, look, prune."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
import structlog

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.admin import Admin
from worker.domain.lifecycle import BatchState
from worker.errors import ConfigurationError, NotPossible, SchemaMismatch, UnknownJob, Unreachable
from worker.store import batch_queries, expired_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.store.database import Database
    from worker.store.retention import Pruned

REFUSED = httpx.Response(400, json={"detail": "no"})
NOW = timedelta(seconds=-60)  # "older than": everything that has ended
LONG = timedelta(days=90)


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=2, max_in_flight=3)


@pytest.fixture
def admin(database_url: str) -> Iterator[Admin]:
    with Admin(database_url) as opened:
        yield opened


# --- retry ---


def test_retrying_one_input_evaluates_it_alone_and_replaces_its_result(
    replica: ManualReplica, admin: Admin
) -> None:
    job_id = replica.enqueue(["a", "bb", "ccc"])
    replica.finish()
    assert admin.retry(job_id, item_index=1) == 1
    assert admin.job(job_id)["status"] == "processing"
    assert replica.one("SELECT count(*) FROM eval_scores") == 2
    replica.finish()
    assert [given["request"] for given in replica.remote.inputs()] == ["a", "bb", "ccc", "bb"]
    assert replica.one("SELECT count(*) FROM eval_scores") == 3
    assert replica.every_result_is_at_its_own_input()
    assert admin.job(job_id)["status"] == "completed"


def test_retrying_all_evaluates_whatever_has_ended_anew(
    replica: ManualReplica, admin: Admin
) -> None:
    job_id = replica.enqueue(["a", "fail", "ccc"])
    replica.finish()
    before = len(replica.remote.inputs())
    assert admin.retry(job_id, everything=True) == 3
    assert replica.rows("SELECT * FROM eval_scores") == []
    replica.finish()
    assert len(replica.remote.inputs()) == 2 * before
    assert admin.job(job_id)["completed"] == 2
    told = [event["event"] for event in admin.events(job_id)]
    assert told.count("batch.superseded") == 2  # the failed input has its own events
    assert told.count("batch.finished") == len(replica.states())


def test_a_cancelled_job_can_be_taken_up_again(replica: ManualReplica, admin: Admin) -> None:
    job_id = replica.enqueue(["a", "b", "c"])
    assert admin.cancel(job_id) == {"inputs": 3, "at_judge": 0}
    assert admin.retry(job_id) == 0  # nothing has failed
    assert admin.retry(job_id, everything=True) == 3
    replica.finish()
    assert admin.job(job_id)["completed"] == 3


def test_what_a_batch_in_doubt_is_known_by_is_not_taken_from_it(
    replica: ManualReplica, admin: Admin
) -> None:
    """Its cancelled inputs are needed to find it again, with the others that it carries."""
    replica.remote.shows_tags = False
    job_id = replica.enqueue(["a"])
    other = replica.enqueue(["b"])
    replica.remote.next_answer(replica.remote.accept_and_lose)
    replica.step()
    assert admin.cancel(job_id) == {"inputs": 1, "at_judge": 1}
    for choice in ({"everything": True}, {"item_index": 0}):
        with pytest.raises(NotPossible, match=r"1 cancelled input .* has not ended"):
            admin.retry(job_id, **choice)
    replica.finish()
    assert replica.remote.posts() == 1
    assert admin.job(other)["completed"] == 1
    assert admin.retry(job_id, everything=True) == 1
    replica.finish()
    assert admin.job(job_id)["completed"] == 1


def test_a_retry_of_what_is_not_there_or_has_not_ended_says_so(
    replica: ManualReplica, admin: Admin
) -> None:
    job_id = replica.enqueue(["a", "b"])
    with pytest.raises(NotPossible, match="has no input 7"):
        admin.retry(job_id, item_index=7)
    with pytest.raises(NotPossible, match=r"input 1 of job .* has not ended: it is pending"):
        admin.retry(job_id, item_index=1)
    with pytest.raises(UnknownJob):
        admin.retry(uuid4())


def test_cancelling_tells_what_had_been_sent(replica: ManualReplica, admin: Admin) -> None:
    replica.remote.done = False
    job_id = replica.enqueue([f"q{n}" for n in range(8)])
    replica.step()
    assert admin.cancel(job_id) == {"inputs": 8, "at_judge": 6}
    assert admin.cancel(job_id) == {"inputs": 0, "at_judge": 6}


# --- looking ---


def test_the_history_of_a_job_has_the_batches_that_it_left(
    replica: ManualReplica, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_queries, "CHUNK_SIZE", 3)
    replica.remote.next_answer(lambda _: REFUSED)
    job_id = replica.enqueue(["a", "fail"])
    other = replica.enqueue(["elsewhere"], judge_id="other")
    replica.finish()
    told = list(admin.events(job_id))
    names = [event["event"] for event in told]
    assert names.count("batch.planned") == 1 + 2 + 2  # the whole, two halves, two retries
    for once in ("batch.split", "item.failed", "job.completed"):
        assert names.count(once) == 1
    assert [event["id"] for event in told] == sorted(event["id"] for event in told)
    assert {event["batch_id"] for event in told}.isdisjoint(
        event["batch_id"] for event in admin.events(other) if event["batch_id"]
    )
    with pytest.raises(UnknownJob):
        list(admin.events(uuid4()))


def test_a_program_that_has_not_configured_structlog_gets_no_lines_on_its_output(
    admin: Admin, capfd: pytest.CaptureFixture[str]
) -> None:
    configuration, was_configured = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    try:
        admin.pause("judge")
    finally:
        if was_configured:
            structlog.configure(**configuration)
    assert capfd.readouterr() == ("", "")


def test_batches_that_the_inputs_of_a_job_have_left_are_listed_too(
    replica: ManualReplica, admin: Admin
) -> None:
    job_id = replica.enqueue(["fail"])  # which is tried again, in a batch of its own
    replica.finish()
    shown = [str(event["batch_id"]) for event in admin.events(job_id) if event["batch_id"]]
    listed = {str(batch["id"]) for batch in admin.batches([BatchState.FINISHED], job_id=job_id)}
    assert listed == set(shown)
    assert len(listed) > 1


def test_batches_are_listed_by_state_judge_and_job(replica: ManualReplica, admin: Admin) -> None:
    replica.remote.done = False
    job_id = replica.enqueue(["a", "b"], judge_id="one")
    replica.enqueue(["c"], judge_id="two")
    replica.step()
    assert [batch["judge_id"] for batch in admin.batches()] == ["two", "one"]
    assert [batch["judge_id"] for batch in admin.batches(limit=1)] == ["two"]
    assert admin.batches([BatchState.UNKNOWN]) == []
    (batch,) = admin.batches(job_id=job_id)
    assert (batch["judge_id"], batch["item_count"], batch["state"]) == ("one", 2, "submitted")
    assert admin.batches(judge_id="two", job_id=job_id) == []
    with pytest.raises(NotPossible, match="no batch on hold"):
        admin.resolve(batch["id"])
    replica.remote.done = True
    replica.finish()
    assert admin.batches() == []


def test_judges_are_shown_with_their_work_their_rate_and_their_pauses(
    replica: ManualReplica, admin: Admin
) -> None:
    replica.enqueue(["a", "b"], judge_id="done")
    replica.finish()
    replica.remote.done = False
    replica.enqueue([f"q{n}" for n in range(8)], judge_id="busy")
    replica.step()
    admin.pause("asleep")
    busy, done, asleep = sorted(admin.judges(), key=lambda row: row["judge_id"] == "asleep")
    assert (busy["waiting"], busy["in_flight"], busy["batches"]) == (2, 6, {"submitted": 3})
    assert done["waiting"] == 0
    assert 0.4 <= done["per_minute"] <= 120  # two inputs, in one second to five minutes
    assert (asleep["judge_id"], asleep["paused"]) == ("asleep", True)
    admin.pause()
    assert all(row["paused"] for row in admin.judges())


def test_resuming_what_is_not_paused_names_what_is(admin: Admin) -> None:
    with pytest.raises(NotPossible, match="there is no pause of all judges, nor any other pause"):
        admin.resume()
    admin.pause("one", reason="its prompt changes")
    with pytest.raises(NotPossible, match=r"there is no pause of judge oen; .*--judge one"):
        admin.resume("oen")
    assert admin.pause("one") is False
    assert admin.status()["paused"][0]["reason"] == "its prompt changes"
    assert admin.pause("one", reason="its model changes") is False
    assert admin.status()["paused"][0]["reason"] == "its model changes"
    admin.resume("one")
    assert admin.status()["paused"] == []
    with pytest.raises(NotPossible, match="judge"):
        admin.pause("")


def test_an_admin_of_what_is_no_database_is_an_error_at_once(empty_database_url: str) -> None:
    with pytest.raises(SchemaMismatch):
        Admin(empty_database_url)
    with pytest.raises(Unreachable):
        Admin("sqlite:////nowhere/at/all.db")
    with pytest.raises(ConfigurationError):
        Admin("mysql://h/d")


# --- prune ---


def rows_left(replica: ManualReplica) -> dict[str, int]:
    tables = ("jobs", "items", "evaluator_results", "batches", "events")
    return {name: replica.one(f"SELECT count(*) FROM eval_{name}") for name in tables}


def test_pruning_deletes_ended_jobs_and_all_that_is_theirs(
    replica: ManualReplica, admin: Admin
) -> None:
    replica.remote.next_answer(lambda _: REFUSED)  # halves, too, and retries
    for n in range(4):
        replica.enqueue([f"good {n}", f"fail {n}"])
    replica.finish()
    assert admin.prune(LONG).jobs == 0
    before = rows_left(replica)
    would = admin.prune(NOW, dry_run=True)
    assert (would.jobs, would.inputs) == (4, 8)
    assert rows_left(replica) == before
    seen: list[Pruned] = []
    pruned = admin.prune(NOW, on_progress=seen.append)
    assert (pruned.jobs, pruned.inputs, pruned.batches) == (4, 8, before["batches"])
    assert pruned.events == before["events"]
    assert seen[-1].inputs == 8
    assert replica.events() == ["jobs.pruned"]
    assert rows_left(replica) | {"events": 0} == dict.fromkeys(before, 0)


def test_pruning_leaves_what_is_open_and_what_others_refer_to(
    replica: ManualReplica, admin: Admin
) -> None:
    pruned_with_others = replica.enqueue(["a"])  # in one batch with the next one
    kept = replica.enqueue(["b", "fail"])
    replica.finish()
    replica.remote.done = False
    waiting = replica.enqueue(["c"])
    replica.step()
    admin.retry(kept)
    pruned = admin.prune(NOW)
    assert (pruned.jobs, pruned.batches) == (1, 0)
    with pytest.raises(UnknownJob):
        admin.job(pruned_with_others)
    assert admin.job(waiting)["in_flight"] == 1
    told = [event["event"] for event in admin.events(kept)]
    assert "batch.finished" in told
    assert told.count("item.retried") == 2
    replica.remote.done = True
    replica.finish()
    assert replica.every_result_is_at_its_own_input()
    assert admin.prune(NOW).jobs == 2
    assert rows_left(replica)["batches"] == 0


def test_a_cancelled_job_stays_until_its_batch_has_ended(
    replica: ManualReplica, admin: Admin
) -> None:
    replica.remote.shows_tags = False
    cancelled = replica.enqueue(["a"])
    other = replica.enqueue(["b"])
    replica.remote.next_answer(replica.remote.accept_and_lose)
    replica.step()
    admin.cancel(cancelled)
    assert admin.prune(NOW).jobs == 0
    assert admin.prune(NOW, texts_only=True).jobs == 0
    replica.finish()
    assert replica.remote.posts() == 1  # it was found by all of its inputs
    assert admin.job(other)["completed"] == 1
    assert admin.prune(NOW).jobs == 2


def test_a_job_larger_than_a_transaction_goes_in_pieces(
    replica: ManualReplica, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired_rows, "MAX_ROWS", 3)
    replica.enqueue(["small"])
    replica.enqueue([f"fail {n}" if n % 2 else f"q{n}" for n in range(8)])
    replica.enqueue(["small", "too"])
    replica.finish()
    steps: list[Pruned] = []
    admin.prune(NOW, on_progress=steps.append)
    inputs = [after.inputs - before.inputs for before, after in itertools.pairwise(steps)]
    assert max(inputs) == 3
    assert rows_left(replica) == dict.fromkeys(rows_left(replica), 0) | {"events": 1}


def test_an_interrupted_prune_goes_on_with_the_next_run(
    replica: ManualReplica, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired_rows, "MAX_ROWS", 2)
    job_id = replica.enqueue([f"q{n}" for n in range(8)])
    replica.finish()

    def interrupt(_: Pruned) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        admin.prune(NOW, on_progress=interrupt)
    assert admin.job(job_id)["total"] == 6
    assert [result.item.item_index for result in admin.results(job_id)] == list(range(6))
    assert admin.prune(NOW).inputs == 6
    assert rows_left(replica) == dict.fromkeys(rows_left(replica), 0) | {"events": 1}


def test_pruning_texts_keeps_the_scores_and_the_job_cannot_be_sent_again(
    replica: ManualReplica, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired_rows, "MAX_ROWS", 2)
    job_id = replica.enqueue(["a", "bb", "fail", "dddd", "eeeee"])
    replica.finish()
    scores = replica.rows("SELECT * FROM eval_scores ORDER BY item_index")
    assert admin.prune(NOW, texts_only=True, dry_run=True).inputs == 5
    assert admin.prune(NOW, texts_only=True).inputs == 5
    assert replica.rows("SELECT * FROM eval_scores ORDER BY item_index") == scores
    texts = "coalesce(request, response, expected_output)"
    assert replica.rows(f"SELECT 1 FROM eval_items WHERE {texts} IS NOT NULL") == []
    assert admin.job(job_id)["failed"] == 1
    assert admin.prune(NOW, texts_only=True).jobs == 0
    with pytest.raises(NotPossible, match=r"texts of job .* were pruned"):
        admin.retry(job_id)
    assert replica.events().count("job.texts_pruned") == 1


def test_a_job_that_is_retried_meanwhile_stays(replica: ManualReplica, admin: Admin) -> None:
    job_id = replica.enqueue(["good", "fail"])
    replica.finish()
    would = admin.prune(NOW, dry_run=True)
    admin.retry(job_id)
    deleted = replica.database.run(lambda tx: expired_rows.delete_jobs(tx, [job_id], would.before))
    assert (deleted.jobs, deleted.inputs, deleted.events) == (0, 0, 0)
    replica.finish()
    assert admin.job(job_id)["completed"] == 1


def test_a_job_whose_notice_is_still_to_be_sent_stays(replica: ManualReplica, admin: Admin) -> None:
    job_id = replica.enqueue(["a"], callback_url="https://shop.test/done")
    replica.finish()  # the notice is due with the next turn
    assert admin.prune(NOW).jobs == 0
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE eval_notices SET state = 'sent', due_at = NULL, finished_at = created_at"
        )
    assert admin.prune(NOW).jobs == 1
    with pytest.raises(UnknownJob):
        admin.job(job_id)
    assert replica.rows("SELECT 1 FROM eval_notices") == []
