"""The console lists, exports and shows the inputs of a job with their scores and texts."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consoles import HOSTILE, enqueue_whole, indexes, link, page, words
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.console import limits
from worker.console.pages.inputs import PIECES

if TYPE_CHECKING:
    import httpx

    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=50, max_item_attempts=1)


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
