"""Console pages stand hostile and endless texts, wrong addresses, slow reads and failures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consoles import HOSTILE, enqueue_whole, page, words
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.console import reader
from worker.console.text_views import VIEWS

if TYPE_CHECKING:
    import httpx

    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=50, max_item_attempts=1)


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


@pytest.mark.parametrize("tags", ['["a", 5]', "5", "null", '[["x"]]', '{"a": 1}', '"nightly"'])
def test_tags_that_are_no_texts_break_no_page(
    replica: ManualReplica, client: httpx.Client, database: Database, tags: str
) -> None:
    job_id, other = replica.enqueue(["same"]), replica.enqueue(["same"])
    replica.finish()
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE eval_jobs SET tags = '{tags}'")
    for path in (
        *("/", "/jobs", "/jobs?tag=a", f"/jobs/{job_id}", f"/jobs/{job_id}/inputs/0"),
        *("/compare", f"/compare?a={job_id}&b={other}"),
        f"/jobs/{job_id}/report.html?against={other}",
    ):
        assert client.get(path).status_code == 200, path


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
