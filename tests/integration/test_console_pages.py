"""What the pages of the console show, on both databases."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consoles import OpenOverviews, open_console, words
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.admin import Admin
from worker.console import limits, reader
from worker.console.pages.inputs import PIECES
from worker.console.text_views import VIEWS
from worker.outbox import enqueue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    import httpx

    from worker.store.database import Database

HOSTILE = "<script>alert(1)</script>\u202e<img src=x onerror=alert(2)>\x07\"'&{{7*7}}"


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=50, max_item_attempts=1)


@pytest.fixture
def client(database: Database) -> Iterator[httpx.Client]:
    with open_console(database) as opened:
        yield opened


def page(client: httpx.Client, path: str, **query: Any) -> str:
    response = client.get(path, params=query or None)
    assert response.status_code == 200, words(response.text)
    return response.text


def indexes(text: str) -> list[int]:
    """The inputs of a table, in order."""
    return [int(found) for found in re.findall(r'inputs/(\d+)[^"]*">\1</a></th>', text)]


def enqueue_whole(database: Database, inputs: list[dict[str, Any]], **job: Any) -> UUID:
    with database.engine.begin() as connection:
        return enqueue(connection, judge_id="judge", inputs=inputs, **job)


def link(text: str, name: str) -> str:
    found = re.search(rf'href="([^"]*)"[^>]*>(?:<bdi>)?[^<]*{re.escape(name)}', text)
    assert found is not None, name
    return html.unescape(found[1])


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


def test_inputs_are_sorted_filtered_and_paged_by_their_scores(
    replica: ManualReplica, client: httpx.Client, monkeypatch: Any
) -> None:
    monkeypatch.setattr(limits, "PAGE_ROWS", 2)
    monkeypatch.setattr("worker.console.pages.inputs.PAGE_ROWS", 2)
    job_id = replica.enqueue(["x" * 50, "fail", "x" * 10, "100%_Ünïcode", "x" * 10, "日本の首都"])
    replica.finish()
    path = f"/jobs/{job_id}/inputs"

    def every_page(**query: Any) -> list[int]:
        text = page(client, path, **query)
        found = indexes(text)
        while 'rel="next"' in text:
            assert len(found) < 10
            text = page(client, link(text, "After"))
            found += indexes(text)
        back = indexes(text)
        while 'rel="prev"' in text:
            assert len(back) < 10
            text = page(client, link(text, "Before"))
            back = indexes(text) + back
        assert back == found
        return found

    assert every_page() == [0, 1, 2, 3, 4, 5]
    assert every_page(sort="worst") == [5, 2, 4, 3, 0]
    assert every_page(sort="best") == [0, 3, 2, 4, 5]
    assert every_page(sort="spread") == [0, 2, 3, 4, 5]
    assert every_page(status="failed") == [1]
    assert every_page(reason="cannot judge fail") == [1]
    assert every_page(q="100%_") == [3]
    assert every_page(q="首都") == [5]
    assert every_page(q="XXX") == [0, 2, 4]
    assert every_page(evaluator="length", min="0.1", below="0.5", sort="worst") == [2, 4, 3]
    assert every_page(min="0.1", max="0.5") == [0, 2, 3, 4]
    assert every_page(evaluator="another", min="0") == []
    assert every_page(evaluator="another") == []
    assert every_page(evaluator="length") == [0, 2, 3, 4, 5]
    assert "No input matches this filter" in words(page(client, path, q="nowhere"))


def test_what_is_filtered_can_be_exported(replica: ManualReplica, client: httpx.Client) -> None:
    job_id = replica.enqueue(["x" * 50, "fail", f"x{HOSTILE}".replace("\x07", "")])
    replica.finish()
    response = client.get(f"/jobs/{job_id}/inputs.jsonl", params={"q": "x", "sort": "worst"})
    assert response.headers["content-disposition"] == f'attachment; filename="{job_id}.jsonl"'
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["item_index"] for line in lines] == [0, 2]
    assert lines[0]["scores"][0]["score"] == 0.5
    rows = list(csv.DictReader(io.StringIO(client.get(f"/jobs/{job_id}/inputs.csv").text)))
    assert [row["error"] for row in rows] == ["", "cannot judge fail", ""]
    assert client.get(f"/jobs/{job_id}/inputs.exe").status_code == 404


@pytest.mark.one_database("sqlite")
def test_names_of_evaluators_break_between_their_words(
    replica: ManualReplica, client: httpx.Client, database: Database
) -> None:
    job_id = replica.enqueue(["x"])
    replica.finish()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_evaluator_results SET evaluator_name = 'a_<b>_c'")
    assert "<bdi>a_<wbr>&lt;b&gt;_<wbr>c</bdi>" in page(client, f"/jobs/{job_id}/inputs")


@pytest.mark.one_database("sqlite")
def test_an_export_for_spreadsheets_has_no_formulas(
    client: httpx.Client, database: Database
) -> None:
    inputs = [{"request": "=1+1", "metadata": {"a": "b"}}] * (PIECES + 1)
    job_id = enqueue_whole(database, inputs)
    harmless = link(page(client, f"/jobs/{job_id}/inputs"), "CSV for spreadsheets")
    for path, request in ((f"/jobs/{job_id}/inputs.csv", "=1+1"), (harmless, "'=1+1")):
        exported = client.get(path)
        rows = list(csv.DictReader(io.StringIO(exported.text)))
        assert [row["request"] for row in rows] == [request] * len(inputs)


def test_an_input_shows_every_text_and_its_neighbours_in_the_list(
    replica: ManualReplica, client: httpx.Client, database: Database
) -> None:
    job_id = enqueue_whole(
        database,
        [
            {"request": "x" * 30, "response": "one two", "expected_output": "one three"},
            {"request": "x" * 10, "response": "**bold** <b>no</b> ![i](http://e/x.png)"},
            {"request": "x" * 20, "response": "r", "contexts": ["ctx"], "metadata": {"id": 5}},
        ],
    )
    replica.finish()
    again = enqueue_whole(database, [{"request": "x" * 20, "response": "r2"}])
    text = page(client, f"/jobs/{job_id}/inputs/2", sort="worst")
    shown = words(text)
    assert "Context 1 ctx" in shown
    assert '"id": 5' in shown
    assert indexes(page(client, f"/jobs/{job_id}/inputs", metadata="id=5")) == [2]
    assert "length 0.200" in shown
    assert "x" * 20 in shown
    assert f"input 0 of …{str(again)[-12:]}" in shown
    assert link(text, "Previous").endswith("/inputs/1?sort=worst")
    assert link(text, "Next").endswith("/inputs/0?sort=worst")
    markdown = page(client, f"/jobs/{job_id}/inputs/1", view="markdown")
    assert "<strong>bold</strong> &lt;b&gt;no&lt;/b&gt;" in markdown
    assert "<img" not in markdown
    difference = page(client, f"/jobs/{job_id}/inputs/0", view="difference")
    assert "one <del>three</del><ins>two</ins>" in difference


@pytest.mark.one_database("sqlite")
def test_an_input_that_waits_refreshes_itself_until_it_has_ended(
    replica: ManualReplica, client: httpx.Client
) -> None:
    job_id = replica.enqueue(["x" * 30])
    path = f"/jobs/{job_id}/inputs/0"
    assert f'hx-get="{path}?sort=worst"' in page(client, path, sort="worst")
    assert "hx-get" not in page(client, path, refresh="off")
    replica.finish()
    ended = page(client, path)
    assert "hx-get" not in ended
    assert "Refresh" not in words(ended)


@pytest.mark.one_database("sqlite")
def test_a_text_without_end_is_shown_in_part_and_downloaded_whole(
    replica: ManualReplica, client: httpx.Client, database: Database
) -> None:
    text = "word " * 200_000
    job_id = enqueue_whole(
        database, [{"request": "q", "response": text, "expected_output": f"{text}more"}]
    )
    for view, most in (("text", "100,000"), ("markdown", "20,000"), ("difference", "100,000")):
        shown = page(client, f"/jobs/{job_id}/inputs/0", view=view)
        assert len(shown) < 300_000
        assert f"first {most} characters" in shown
    assert "too long for a difference" in shown
    assert client.get(f"/jobs/{job_id}/inputs/0/response.txt").text == text


@pytest.mark.one_database("sqlite")
def test_a_page_has_a_length_whatever_its_input_consists_of(
    replica: ManualReplica, client: httpx.Client, database: Database, monkeypatch: Any
) -> None:
    monkeypatch.setattr("worker.console.text_views.MAX_PAGE", 5_000)
    monkeypatch.setattr("worker.console.text_views.MAX_SHOWN", 1_000)
    hidden = "\u200b\u2060" * 2_000
    job_id = enqueue_whole(
        database,
        [
            {"request": "q", "response": "r", "contexts": ["\u200b" * 20_000]},
            {"request": hidden, "metadata": {"m": hidden}, "contexts": [hidden, "c"] * 50},
            {"request": "q", "response": hidden, "expected_output": hidden},
            {"request": "q", "response": "r", "metadata": {"m": hidden}},
        ],
        metadata={"m": hidden},
    )
    replica.finish()
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE eval_evaluator_results SET justification = ? WHERE item_index = 3", (hidden,)
        )
    one = words(page(client, f"/jobs/{job_id}/inputs/0"))
    note = "Context 1 Only the first 1,000 characters are shown."
    assert f"{note} U+200B \N{MULTIPLICATION SIGN}1,000" in one
    for path in (
        *(f"/jobs/{job_id}/inputs/{index}?view={view}" for index in (1, 2, 3) for view in VIEWS),
        f"/jobs/{job_id}",
        f"/jobs/{job_id}/report.html",
    ):
        text = client.get(path).text
        assert text.count("hidden-char") < 250, path
        assert "characters are shown" in words(text) or "report" in path, path
    many = words(page(client, f"/jobs/{job_id}/inputs/1"))
    assert re.search(r"Contexts \d+ to 100 are not shown", many)


def test_hostile_texts_are_shown_and_never_run(
    replica: ManualReplica, client: httpx.Client, database: Database
) -> None:
    sendable = HOSTILE.replace("\x07", "")
    job_id = enqueue_whole(
        database,
        [{"request": sendable, "response": sendable, "metadata": {sendable: sendable}}],
        tags=[sendable],
        metadata={sendable: [sendable]},
    )
    failed = replica.enqueue([f"fail {sendable}"])
    replica.finish()
    for path in (
        "/",
        "/jobs",
        f"/jobs/{job_id}",
        f"/jobs/{job_id}/inputs",
        f"/jobs/{job_id}/inputs/0",
        f"/jobs/{job_id}/inputs/0?view=markdown",
        f"/jobs/{failed}",
        f"/jobs/{failed}/inputs/0",
        "/failures",
        "/events",
        f"/failures?judge={sendable}",
    ):
        text = page(client, path)
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
        in_fields = "".join(re.findall(r' value="([^"]*)"', text))  # which must stay exact
        assert text.count("\u202e") == in_fields.count("\u202e"), path
        assert "&amp;49" not in text, path
    shown = page(client, f"/jobs/{job_id}/inputs/0")
    assert 'title="right-to-left override">U+202E</span>' in shown
    raw = client.get(f"/jobs/{job_id}/inputs/0/response.txt")
    assert raw.text == sendable
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert raw.headers["content-disposition"].startswith("attachment")


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


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/nonsense",
        "/jobs/01932f5e-0000-7000-8000-000000000001",
        "/jobs/01932f5e-0000-7000-8000-000000000001/inputs",
        "/jobs/01932f5e-0000-7000-8000-000000000001/inputs/0",
        "/jobs/01932f5e-0000-7000-8000-000000000001/inputs.csv",
        "/batches/01932f5e-0000-7000-8000-000000000001",
        "/batches/x",
        "/batches?job=01932f5e-0000-7000-8000-000000000001",
        "/nowhere",
    ],
)
@pytest.mark.one_database("sqlite")
def test_what_does_not_exist_is_a_page_that_says_so(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "There is no such" in words(response.text)


@pytest.mark.parametrize("place", ["0", "_", "x_1", "nan_1", "0_-1", "0_x", f"0_{'9' * 30}"])
def test_a_broken_place_in_a_list_is_named(
    replica: ManualReplica, client: httpx.Client, place: str
) -> None:
    job_id = replica.enqueue(["a"])
    for query in ({"before": place}, {"after": place, "sort": "worst"}):
        response = client.get(f"/jobs/{job_id}/inputs", params=query)
        assert response.status_code == 400
        assert next(iter(query)) in words(response.text)


@pytest.mark.one_database("sqlite")
@pytest.mark.parametrize("index", ["1", "-1", "x", "99999999999", "1.5"])
def test_an_input_that_does_not_exist_is_not_found(
    replica: ManualReplica, client: httpx.Client, index: str
) -> None:
    job_id = replica.enqueue(["a"])
    assert client.get(f"/jobs/{job_id}/inputs/{index}").status_code == 404


def test_a_read_that_takes_too_long_ends_and_says_what_to_narrow(
    replica: ManualReplica, client: httpx.Client, monkeypatch: Any
) -> None:
    slow = {
        True: "SELECT pg_sleep(20)",
        False: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT max(i) FROM n",
    }[replica.database.on_postgresql]

    def count_slowly(connection: Any, *_: Any, **__: Any) -> int:
        connection.exec_driver_sql(slow)
        return 0

    read = reader.Reader.read
    monkeypatch.setattr(reader.Reader, "read", lambda self, _=0.0: read(self, 0.2))
    monkeypatch.setattr("worker.console.pages.jobs.count_jobs", count_slowly)
    response = client.get("/jobs")
    assert response.status_code == 503
    assert "more than 0.2 seconds" in words(response.text)
    assert "Narrow it" in words(response.text)
    assert client.get("/batches").status_code == 200  # the connection is whole


@pytest.mark.one_database("sqlite")
def test_a_page_that_fails_shows_no_traceback(client: httpx.Client, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a secret of the database")

    monkeypatch.setattr("worker.console.pages.failures.failure_filter", fail)
    response = client.get("/failures")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["content-security-policy"]
