"""The console shows how the system does, and jobs with what became of them, on both databases."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consoles import HOSTILE, OpenOverviews, enqueue_whole, indexes, link, page, words
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.admin import Admin
from worker.console import limits

if TYPE_CHECKING:
    from uuid import UUID

    import httpx

    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=50, max_item_attempts=1)


def test_without_jobs_every_page_says_so(client: httpx.Client) -> None:
    for path, sentence in (
        ("/", "There are no jobs yet"),
        ("/jobs", "There are no jobs yet"),
        ("/failures", "No input has failed"),
        ("/batches", "There are no batches yet"),
        ("/events", "Nothing has happened yet"),
        ("/compare", "A comparison needs two jobs"),
    ):
        assert sentence in words(page(client, path))


def test_the_overview_begins_with_what_needs_a_person(
    replica: ManualReplica, client: httpx.Client, database: Database, monkeypatch: Any
) -> None:
    monkeypatch.setattr("worker.console.pages.overview.SHARED_SECONDS", 1e-6)
    job_id = replica.enqueue(["a", "bb"])
    replica.finish()
    calm = words(page(client, "/"))
    assert "Nothing. Work goes on by itself." in calm
    assert "length 0.015" in calm
    replica.enqueue(["later"], judge_id="other")
    replica.enqueue(["held"])
    replica.remote.done = False
    replica.step()
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE eval_batches SET state = 'held', due_at = NULL, error = 'nobody knows'"
            " WHERE state = 'submitted' AND judge_id = 'judge'"
        )
        connection.exec_driver_sql(
            "INSERT INTO eval_gates (scope, opens_at, reason, closed_at, failures)"
            " VALUES ('api', '2030-01-01 00:00:00.000000+00:00', 'Invalid API key.',"
            " '2026-01-01 00:00:00.000000+00:00', 1)"
        )
    with Admin(str(database.engine.url.render_as_string(hide_password=False))) as admin:
        admin.pause("other", reason=f"its prompt changes {HOSTILE}")
    shown = words(page(client, "/"))
    assert "Paused: judge other" in shown
    assert "its prompt changes <script>" in shown
    assert "On hold: a batch of 1 input for judge nobody knows" in shown
    assert "The judge API refuses requests ( api )" in shown.replace("(api)", "( api )")
    assert "Invalid API key." in shown
    assert shown.index("Paused") < shown.index("Judges") < shown.index("Latest jobs")
    assert str(job_id)[-12:] in shown


def test_ten_open_overviews_cost_the_database_no_more_than_one(
    replica: ManualReplica, database: Database
) -> None:
    replica.enqueue(["a", "bb"])
    replica.finish()
    alone, together = OpenOverviews(database), OpenOverviews(database)
    alone.refresh(people=1)
    together.refresh(people=10)
    assert together.statements == alone.statements > 0


def test_jobs_are_found_by_status_judge_tag_metadata_and_time(
    replica: ManualReplica, client: httpx.Client
) -> None:
    by_name = {
        "plain": replica.enqueue(["a"], judge_id="one"),
        "tagged": replica.enqueue(["a"], judge_id="two", tags=["gold", 'a"b']),
        "described": replica.enqueue(
            ["a"], judge_id="two", metadata={"order": 17, 'o"dd': "x", "fine": True, "deep": {}}
        ),
    }
    replica.finish()
    waiting = replica.enqueue(["a"], judge_id="one", metadata={})

    def found(**query: Any) -> set[str]:
        text = page(client, "/jobs", **query)
        names = {**by_name, "waiting": waiting}
        return {name for name, job_id in names.items() if f'value="{job_id}"' in text}

    assert found() == {"plain", "tagged", "described", "waiting"}
    assert found(status="pending") == {"waiting"}
    assert found(judge="two") == {"tagged", "described"}
    assert found(judge="two", status="failed") == set()
    assert found(tag="gold") == {"tagged"}
    assert found(tag='a"b') == {"tagged"}
    assert found(tag="%") == set()
    assert found(metadata="order=17") == {"described"}
    assert found(metadata='o"dd=x') == {"described"}
    assert found(metadata="fine=true") == {"described"}
    assert found(metadata="order=1") == set()
    assert found(since="2020-01-01T00:00") == {"plain", "tagged", "described", "waiting"}
    assert found(until="2020-01-01") == set()
    assert "No job matches this filter" in words(page(client, "/jobs", until="2020-01-01"))


@pytest.mark.one_database("sqlite")
@pytest.mark.parametrize("path", ["/jobs", "/failures"])
def test_a_time_of_the_address_is_in_the_form_as_browsers_read_it(
    client: httpx.Client, path: str
) -> None:
    for given, in_utc in (
        ("2026-01-01", "2026-01-01T00:00"),
        ("2026-01-01T10:00:30", "2026-01-01T10:00"),
        ("2026-01-01T00:30+02:00", "2025-12-31T22:30"),
    ):
        text = page(client, path, since=given, until=given)
        for name in ("since", "until"):
            assert f'name="{name}" value="{in_utc}"' in text
    assert 'name="since" value=""' in page(client, path)


def test_lists_go_by_pages_in_both_directions_and_counts_stop(
    replica: ManualReplica, client: httpx.Client, monkeypatch: Any
) -> None:
    monkeypatch.setattr(limits, "PAGE_ROWS", 2)
    monkeypatch.setattr("worker.console.pages.jobs.PAGE_ROWS", 2)
    monkeypatch.setattr("worker.console.pages.jobs.MAX_COUNT", 3)
    ids = [str(replica.enqueue([f"q{n}"])) for n in range(5)][::-1]

    def rows(text: str) -> list[str]:
        return re.findall(r'name="job" value="([^"]*)"', text)

    first = page(client, "/jobs")
    assert "more than" in words(first)
    second = page(client, link(first, "Older"))
    third = page(client, link(second, "Older"))
    assert [rows(first), rows(second), rows(third)] == [ids[:2], ids[2:4], ids[4:]]
    assert "Older" not in words(third)
    back = page(client, link(third, "Newer"))
    assert rows(back) == ids[2:4]
    start = page(client, link(back, "Newer"))
    assert rows(start) == ids[:2]
    assert "Newer" not in words(start)


def test_a_job_shows_its_scores_failures_and_worst_inputs(
    replica: ManualReplica, client: httpx.Client
) -> None:
    job_id = replica.enqueue(
        ["x" * 10, "x" * 30, "fail 1", "x" * 95], tags=["t"], metadata={"run": 7}
    )
    earlier = page(client, f"/jobs/{job_id}")
    assert "4 of its inputs wait for their turn" in words(earlier)
    replica.finish()
    text = page(client, f"/jobs/{job_id}")
    shown = words(text)
    assert "length 0.450 no interval: " in shown
    assert "Median 0.300 Scored 3 Without score 0" in shown
    assert "cannot judge fail 1" in shown
    assert indexes(text) == [0, 1, 3]
    assert '"run": 7' in shown
    (bar,) = re.findall(r'<a href="([^"]*)" aria-label="0.900 to 1.000: 1"', text)
    assert indexes(page(client, html.unescape(bar))) == [3]
    assert indexes(page(client, link(text, "cannot judge fail 1"))) == [2]
    assert "length 0.450" in words(page(client, f"/jobs/{job_id}", cluster="nothing-has-this"))
    again = replica.enqueue(["x"], tags=["t"])
    assert f"a={job_id}&amp;b={again}" in page(client, f"/jobs/{again}")


def test_two_jobs_are_compared_and_the_changes_lead_to_their_inputs(
    replica: ManualReplica, client: httpx.Client, database: Database
) -> None:
    def enqueue_lengths(*lengths: int) -> UUID:
        inputs = [
            {"request": "x" * length, "response": "r", "metadata": {"id": number}}
            for number, length in enumerate(lengths)
        ]
        return enqueue_whole(database, inputs)

    first = enqueue_lengths(*(10 for _ in range(12)), 50)
    second = enqueue_lengths(*(20 + number for number in range(12)), 40)
    replica.finish()
    asked = client.get("/compare", params={"job": [str(second), str(first)]})
    assert asked.headers["location"] == f"/compare?a={first}&b={second}"
    text = page(client, asked.headers["location"])
    shown = words(text)
    assert "B is better: +0.135 on average, 12 of 13 pairs higher." in shown
    assert "Two different requests are in 13 of 13 pairs." in shown
    assert "Pairs 13 Better 12" in shown
    assert f"/jobs/{second}/inputs/12" in text.partition("Largest gains")[0]
    assert f"/jobs/{first}/inputs/11" in text.partition("Largest gains")[2]
    of_no_evaluator = words(page(client, "/compare", a=first, b=second, evaluator="gone"))
    assert "No pair got" not in of_no_evaluator
    swapped = words(page(client, link(text, "Swap")))
    assert "B is worse: -0.135 on average" in swapped
    by_metadata = words(page(client, "/compare", a=first, b=second, by="metadata", key="id"))
    assert "13 pairs of inputs" in by_metadata
    assert page(client, "/compare", a=first, b=second, by="metadata:id")
    none = client.get("/compare", params={"a": str(first), "b": str(second), "by": "request"})
    assert none.status_code == 409
    assert "no clear pairs" in words(none.text)
    assert "Compare again" in words(none.text)
    wrong = client.get("/compare", params={"a": str(first), "b": str(second), "by": "colour"})
    assert wrong.status_code == 400
    exported = client.get("/compare.json", params={"a": str(first), "b": str(second)}).json()
    assert exported["evaluators"][0]["verdict"] == "better"
    report = client.get(f"/jobs/{second}/report.html", params={"against": str(first)})
    assert report.headers["content-disposition"].startswith("attachment")
    assert "B is better: +0.135 on average" in words(report.text)
    assert client.get("/compare", params={"job": [str(first)]}).status_code == 400
    assert str(second)[-12:] in page(client, "/compare", a=first)


def test_failures_are_grouped_by_reason_and_lead_to_their_jobs(
    replica: ManualReplica, client: httpx.Client
) -> None:
    first = replica.enqueue(["fail same", "fail same", "fail other", "fine"])
    second = replica.enqueue(["fail same"], judge_id="two")
    replica.finish()
    text = page(client, "/failures")
    _, body = text.split("<tbody>")
    rows = [words(row) for row in re.findall(r"(?s)<tr>(.*?)</tr>", body)]
    assert rows[0].startswith("cannot judge fail same judge 2 1")
    assert {row.split(" Retry")[0] for row in rows[1:]} == {
        "cannot judge fail other judge 1 1",
        "cannot judge fail same two 1 1",
    }
    of_two = page(client, "/failures", reason="cannot judge fail same", judge="two")
    assert str(second) in of_two
    assert str(first) not in of_two


def test_batches_and_events_have_timelines(replica: ManualReplica, client: httpx.Client) -> None:
    job_id = replica.enqueue(["a", "fail"])
    replica.finish()
    batches = page(client, "/batches", job=job_id)
    path = re.search(r'href="(/batches/[0-9a-f-]+)"', batches)
    assert path is not None
    timeline = words(page(client, path[1]))
    assert timeline.index("batch.planned") < timeline.index("batch.submitted")
    assert timeline.index("batch.submitted") < timeline.index("batch.finished")
    assert "Nothing" not in timeline
    events = words(page(client, "/events", event="job.completed"))
    assert "job.completed" in events
    assert "No event matches" in words(page(client, "/events", by="people"))
    assert "item.failed" in words(page(client, "/events", job=job_id, input=1))


def test_health_repeats_the_checks_of_the_command(client: httpx.Client) -> None:
    shown = words(page(client, "/health"))
    assert "database ok" in shown
    assert "judge API wrong" in shown
    assert "EVALWORKER_API_KEY" in shown
