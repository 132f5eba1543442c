"""Whoever acts by the console is asked first, and named in the history."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.support.consoles import (
    JSON_KEYS,
    OPERATOR_KEY,
    SAME_ORIGIN,
    VIEWER_KEY,
    open_console,
    sign_in,
    words,
)
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.console.action_message import COOKIE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=50, max_item_attempts=1)


@pytest.fixture
def operator(database: Database) -> Iterator[httpx.Client]:
    with open_console(database, keys=JSON_KEYS) as client:
        sign_in(client, OPERATOR_KEY)
        yield client


def send(client: httpx.Client, path: str, *fields: tuple[str, str]) -> httpx.Response:
    form: dict[str, list[str]] = {}
    for name, value in fields:
        form.setdefault(name, []).append(value)
    return client.post(path, data=form, headers=SAME_ORIGIN)


def confirm(client: httpx.Client, asked: httpx.Response) -> httpx.Response:
    """Send the form of a page that asks, as it is."""
    assert asked.status_code == 200, words(asked.text)
    form = re.search(
        r'(?s)<form method="post" action="([^"]*)" class="buttons">.*?</form>', asked.text
    )
    assert form is not None
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[0])
    return send(client, form[1], *((name, html.unescape(value)) for name, value in fields))


def message_after(client: httpx.Client, done: httpx.Response) -> str:
    """What the page after an action says about it."""
    assert done.status_code == 303, words(done.text)
    return words("".join(re.findall(r'<p class="done".*?</p>', page_after(client, done))))


def page_after(client: httpx.Client, done: httpx.Response) -> str:
    return client.get(done.headers["location"]).text


def details(replica: ManualReplica, event: str) -> list[Any]:
    column = "detail" if replica.database.on_postgresql else "json(detail)"
    rows = replica.rows(f"SELECT {column} FROM eval_events WHERE event = '{event}' ORDER BY id")
    return [str(row[0]) for row in rows]


def test_failures_are_retried_after_a_page_that_counts_them(
    replica: ManualReplica, operator: httpx.Client
) -> None:
    job_id = replica.enqueue(["fail a", "fail b", "fine"])
    replica.finish()
    asked = operator.get("/retry", params={"job": str(job_id)})
    shown = words(asked.text)
    assert "Evaluate 2 inputs again?" in shown
    assert "The judge bills every one of them again." in shown
    done = confirm(operator, asked)
    assert message_after(operator, done) == "2 inputs of 1 job will be evaluated again."
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'pending'") == 2
    (detail,) = details(replica, "job.retry")
    assert "console:otto" in detail
    shown = words(operator.get("/events?by=people").text)
    assert "job.retry console:otto" in shown
    replica.finish()
    again = operator.post("/retry", data={"job": str(job_id), "item": "2"}, headers=SAME_ORIGIN)
    assert again.headers["location"] == f"/jobs/{job_id}/inputs/2"
    nothing = operator.get("/retry", params={"job": str(job_id), "item": "2"})
    assert nothing.status_code == 409  # it waits already


def test_all_with_a_reason_are_retried_and_no_others(
    replica: ManualReplica, operator: httpx.Client
) -> None:
    reason = "cannot judge fail <&same>"
    jobs = [replica.enqueue(["fail <&same>", "fail other"]) for _ in range(2)]
    elsewhere = replica.enqueue(["fail <&same>"], judge_id="two")
    replica.finish()
    asked = operator.get(
        "/retry", params={"matching": "failures", "reason": reason, "judge": "judge"}
    )
    assert "Evaluate 2 inputs again? They are in 2 jobs" in words(asked.text)
    done = confirm(operator, asked)
    assert message_after(operator, done) == "2 inputs of 2 jobs will be evaluated again."
    pending = replica.rows("SELECT job_id FROM eval_items WHERE status = 'pending'")
    assert sorted(UUID(str(row[0])) for row in pending) == sorted(jobs)
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'failed'") == 3
    assert operator.get(f"/jobs/{elsewhere}").status_code == 200


def test_retrying_a_reason_finds_jobs_whose_failures_are_not_among_the_latest(
    replica: ManualReplica, operator: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [replica.enqueue(["fail same", "fail same"]) for _ in range(2)]
    replica.finish()
    monkeypatch.setattr("worker.store.failure_queries.LATEST", 1)
    query = {"reason": "cannot judge fail same", "judge": "judge"}
    shown = operator.get("/failures", params=query).text
    assert all(str(job_id) in shown for job_id in jobs)
    asked = operator.get("/retry", params={"matching": "failures", **query})
    assert "Evaluate 4 inputs again? They are in 2 jobs" in words(asked.text)
    monkeypatch.setattr("worker.console.pages.actions.MAX_JOBS", 1)
    asked = operator.get("/retry", params={"matching": "failures", **query})
    assert "Evaluate 2 inputs again? They are in 1 job" in words(asked.text)
    assert "More jobs match" in words(asked.text)


def test_a_reason_of_several_lines_finds_its_failures_again(
    replica: ManualReplica, operator: httpx.Client
) -> None:
    job_id = replica.enqueue(["fail"])
    replica.finish()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_items SET error = 'one\ntwo'")
    asked = operator.get("/retry", params={"job": str(job_id), "reason": "one\ntwo"})
    as_browsers_send_it = html.unescape(asked.text).count('name="reason" value="one\ntwo"')
    assert as_browsers_send_it == 1
    form = {"job": str(job_id), "reason": "one\r\ntwo"}
    done = operator.post("/retry", data=form, headers=SAME_ORIGIN)
    assert message_after(operator, done) == "1 input of 1 job will be evaluated again."


def test_ticked_jobs_and_all_that_match_are_cancelled(
    replica: ManualReplica, operator: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [replica.enqueue(["a", "b"], tags=["x"]) for _ in range(3)]
    other = replica.enqueue(["c"])
    asked = operator.get("/cancel", params={"job": [str(jobs[0]), str(jobs[1])]})
    assert "Cancel 4 inputs? They are in 2 jobs." in words(asked.text)
    assert "4 inputs of 2 jobs cancelled." in message_after(operator, confirm(operator, asked))
    asked = operator.get("/cancel", params={"matching": "jobs", "tag": "x"})
    assert "Cancel 2 inputs?" in words(asked.text)
    done = confirm(operator, asked)
    assert done.headers["location"] == f"/jobs/{jobs[2]}"
    status = f"SELECT status FROM eval_jobs WHERE id = '{other}'"
    assert replica.one(status) == "pending"
    assert all("console:otto" in detail for detail in details(replica, "job.cancelled"))
    monkeypatch.setattr("worker.console.pages.actions.MAX_JOBS", 2)
    asked = operator.get("/retry", params={"matching": "jobs", "tag": "x", "everything": "yes"})
    assert "More jobs match" in words(asked.text)


def test_all_that_match_are_jobs_in_which_something_would_change(
    replica: ManualReplica, operator: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.console.pages.actions.MAX_JOBS", 2)
    failed = replica.enqueue(["fail", "fine"])
    replica.finish()
    waiting = replica.enqueue(["waits"], judge_id="paused")
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_pauses VALUES"
            " ('paused', 'its prompt changes', '2026-01-01 00:00:00.000000+00:00')"
        )
    for _ in range(3):
        replica.enqueue(["fine"])
    replica.step()
    replica.pass_time()
    replica.step()
    assert replica.open_jobs() == 1
    for action, sentence, job_id in (
        ("/retry", "Evaluate 1 input again?", failed),
        ("/cancel", "Cancel 1 input?", waiting),
    ):
        asked = operator.get(action, params={"matching": "jobs"})
        assert sentence in words(asked.text)
        assert "More jobs match" not in words(asked.text)
        assert str(job_id) in asked.text


def test_what_is_retried_is_what_the_page_counted(
    replica: ManualReplica, operator: httpx.Client
) -> None:
    job_id = replica.enqueue(["fail a", "fail b", "fine"])
    replica.finish()
    query = {"job": str(job_id), "everything": "yes", "reason": "cannot judge fail a"}
    asked = operator.get("/retry", params=query)
    assert "Evaluate 3 inputs again?" in words(asked.text)
    assert "3 inputs of 1 job" in message_after(operator, confirm(operator, asked))
    operator.post("/cancel", data=query, headers=SAME_ORIGIN)
    done = operator.post("/retry", data=query, headers=SAME_ORIGIN)
    assert "3 inputs of 1 job" in message_after(operator, done)


def test_a_judge_is_paused_with_a_reason_and_resumed(
    replica: ManualReplica, operator: httpx.Client
) -> None:
    assert "Pause judge one?" in words(operator.get("/pause?judge=one").text)
    done = send(operator, "/pause", ("judge", "one"), ("reason", "its prompt changes"))
    assert "Paused: nothing new" in message_after(operator, done)
    assert replica.one("SELECT reason FROM eval_pauses") == "its prompt changes"
    asked = operator.get("/resume?judge=one")
    assert "its prompt changes" in words(asked.text)
    assert "Resumed: what waited" in message_after(operator, confirm(operator, asked))
    assert replica.rows("SELECT 1 FROM eval_pauses") == []
    assert operator.get("/resume?judge=one").status_code == 409
    assert send(operator, "/resume", ("judge", "one")).status_code == 409
    for event in ("gate.closed", "gate.opened"):
        assert "console:otto" in details(replica, event)[0]


@pytest.mark.one_database("sqlite")
def test_the_overview_after_an_action_shows_what_it_did(
    operator: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.console.pages.overview.SHARED_SECONDS", 1e9)
    assert "Paused:" not in words(operator.get("/").text)
    done = send(operator, "/pause", ("judge", "one"), ("reason", "its prompt changes"))
    assert "Paused: judge one" in words(page_after(operator, done))
    done = send(operator, "/resume", ("judge", "one"))
    assert "Paused: judge one" not in words(page_after(operator, done))


@pytest.mark.parametrize(("how", "state"), [("search", "submitted"), ("resubmit", "lost")])
def test_a_batch_on_hold_is_resolved_both_ways(
    replica: ManualReplica, operator: httpx.Client, how: str, state: str
) -> None:
    replica.enqueue(["a"])
    replica.remote.done = False
    replica.step()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_batches SET state = 'held', due_at = NULL")
    batch_id = replica.one("SELECT id FROM eval_batches")
    shown = words(operator.get(f"/batches/{batch_id}").text)
    assert "On hold until a person decides" in shown
    assert "billed twice" in shown
    assert "Decide…" in words(operator.get("/").text)
    with open_console(replica.database, keys=JSON_KEYS) as viewer:
        sign_in(viewer, VIEWER_KEY)
        overview = words(viewer.get("/").text)
        assert "Look" in overview
        assert "Decide" not in overview
        assert "Search for it" not in words(viewer.get(f"/batches/{batch_id}").text)
    done = send(operator, f"/batches/{batch_id}/resolve", ("how", how))
    assert message_after(operator, done) == "The batch goes on."
    assert replica.one("SELECT state FROM eval_batches") == state
    assert "console:otto" in details(replica, "batch.resolved")[0]
    assert send(operator, f"/batches/{batch_id}/resolve", ("how", how)).status_code == 409


@pytest.mark.one_database("sqlite")
@pytest.mark.parametrize("prefix", ["", "/evals"])
def test_what_was_done_is_said_once_and_by_no_address(database: Database, prefix: str) -> None:
    address = f"{prefix}/?done=cancel&inputs=2000000000&jobs=99"
    with open_console(database, prefix=prefix) as client:
        assert 'role="status"' not in client.get(address).text
        done = send(client, f"{prefix}/pause", ("judge", "one"), ("reason", "x"))
        cookie = done.headers["set-cookie"].lower()
        for part in ("httponly", "samesite=strict", "max-age=60", f"path={prefix or '/'}"):
            assert part in cookie
        assert "secure" not in cookie
        refreshed = client.get(address, headers={"HX-Request": "true"}).text  # of another page
        assert 'role="status"' not in refreshed
        assert "Paused: nothing new" in message_after(client, done)
        assert message_after(client, done) == ""


@pytest.mark.one_database("sqlite")
@pytest.mark.parametrize("said", ["", "done=x", "done=retry&inputs=x", "x", "done=%00", "=&;…"])
def test_a_broken_message_is_no_message(database: Database, said: str) -> None:
    with open_console(database) as client:
        response = client.get("/", headers={b"Cookie": f"{COOKIE}={said}".encode()})
        assert response.status_code == 200
        assert 'role="status"' not in response.text


ACTIONS = [
    ("/retry", {"job": "{job}"}),
    ("/cancel", {"job": "{job}"}),
    ("/pause", {"judge": "one", "reason": "x"}),
    ("/resume", {"judge": "one"}),
    ("/batches/01932f5e-0000-7000-8000-000000000001/resolve", {"how": "resubmit"}),
]


@pytest.mark.one_database("sqlite")
@pytest.mark.parametrize(("path", "form"), ACTIONS)
@pytest.mark.parametrize("who", ["viewer", "read-only"])
def test_viewers_and_a_read_only_console_change_nothing(
    replica: ManualReplica, database: Database, who: str, path: str, form: dict[str, str]
) -> None:
    job_id = replica.enqueue(["fail", "fine"])
    replica.finish()
    filled = {name: value.format(job=job_id) for name, value in form.items()}
    settings: dict[str, Any] = {"read_only": True} if who == "read-only" else {}
    with open_console(database, keys=JSON_KEYS, **settings) as client:
        sign_in(client, OPERATOR_KEY if settings else VIEWER_KEY)
        before = replica.events()
        assert client.post(path, data=filled, headers=SAME_ORIGIN).status_code == 403
        assert client.get(path, params=filled).status_code == 403
        assert replica.events() == before
        for shown in ("/", "/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/inputs/0", "/failures"):
            text = client.get(shown).text
            assert not re.search(r'(?:href|action)="/(?:retry|cancel|pause|resume)', text), shown


@pytest.mark.one_database("sqlite")
@pytest.mark.parametrize(("path", "form"), ACTIONS)
def test_nothing_changes_without_a_session_or_from_another_site(
    replica: ManualReplica, database: Database, path: str, form: dict[str, str]
) -> None:
    job_id = replica.enqueue(["fail", "fine"])
    replica.finish()
    filled = {name: value.format(job=job_id) for name, value in form.items()}
    with open_console(database, keys=JSON_KEYS) as client:
        before = replica.events()
        assert client.post(path, data=filled, headers=SAME_ORIGIN).status_code == 401
        sign_in(client, OPERATOR_KEY)
        for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
            assert client.post(path, data=filled, headers=headers).status_code == 403
        assert replica.events() == before


@pytest.mark.one_database("sqlite")
def test_a_form_that_is_too_large_or_broken_is_refused(operator: httpx.Client) -> None:
    for body, status in ((b"job=" + b"x" * 300_000, 413), (b"job=%ff", 400), (b"", 400)):
        headers = {**SAME_ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
        assert operator.post("/retry", content=body, headers=headers).status_code == status
