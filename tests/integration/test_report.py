"""A report is one file that loads nothing, obeys no text, and has the numbers of the commands."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.support.scored_jobs import add_scored_job
from worker.console.report import MAX_CHARACTERS, render_report
from worker.domain.number_format import difference_text, interval_text
from worker.domain.pair_key import PairedBy, Pairing
from worker.errors import NotPossible, UnknownJob
from worker.store.comparison_queries import compare_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

pytestmark = pytest.mark.one_database("sqlite")  # the queries have tests of their own

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\u202e {{ 7 * 7 }}"
LOADING = {"src", "href", "srcset", "action", "data", "poster", "background", "style", "formaction"}
ALLOWED = {"html", "head", "meta", "title", "style", "body", "main", "header", "section", "article"}
ALLOWED |= {"h1", "h2", "h3", "p", "div", "span", "b", "bdi", "ul", "li", "dl", "dt", "dd", "table"}
ALLOWED |= {"thead", "tbody", "tr", "th", "td", "details", "summary", "svg", "rect", "line", "g"}
ALLOWED |= {"circle"}


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.policy = ""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def connection(database: Any) -> Iterator[sa.Connection]:
    with database.engine.begin() as opened:
        yield opened


def test_a_report_loads_nothing_and_shows_hostile_texts_as_texts(connection: sa.Connection) -> None:
    texts = [HOSTILE + "long " * MAX_CHARACTERS] * 12
    given: dict[str, Any] = {"requests": texts, "justification": HOSTILE, "tags": [HOSTILE]}
    first = add_scored_job(connection, {HOSTILE: [0.5] * 12}, judge_id=HOSTILE, **given)
    second = add_scored_job(connection, {HOSTILE: [0.1] * 12}, judge_id=HOSTILE, **given)
    connection.exec_driver_sql(
        "UPDATE eval_items SET status = 'failed', error = request WHERE item_index = 0"
    )
    text = render_report(connection, second, first)
    page = Page(text)
    assert page.elements <= ALLOWED
    assert not page.attributes & LOADING
    assert not any(name.startswith("on") for name in page.attributes)
    assert not {"\x1b", "\u202e"} & set(text)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert re.search(r"… and [\d,]+ characters more", page.text)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert page.policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "url(" not in style
    assert "@import" not in style


def test_a_report_has_the_numbers_of_the_comparison(connection: sa.Connection) -> None:
    ids = [{"id": number} for number in range(12)]
    first = add_scored_job(connection, {"Clarity": [0.5] * 12, "Tone": [0.5] * 12}, metadata=ids)
    second = add_scored_job(
        connection, {"Clarity": [0.6, 0.8] * 6, "Tone": [0.4, 0.6] * 6}, metadata=ids[::-1]
    )
    pairing = Pairing(PairedBy.METADATA, "id")
    page = Page(render_report(connection, second, first, pairing=pairing, cluster="id"))
    for one in compare_jobs(connection, first, second, pairing, "id").evaluators:
        assert one.sentence in page.text
        assert interval_text(one.interval, signed=True) in page.text
        assert difference_text(one.scores.mean_difference) in page.text
    assert "12 pairs of inputs with the same metadata 'id'" in page.text
    assert "Largest losses" in page.text
    assert "Inputs with the same id in their metadata belong together" in page.text


def test_a_job_without_results_has_a_report_as_well(connection: sa.Connection) -> None:
    job_id = add_scored_job(connection, {"Clarity": [None]}, status="failed", error="all failed")
    connection.exec_driver_sql("DELETE FROM eval_evaluator_results")
    page = Page(render_report(connection, job_id))
    assert "No evaluator has given a result." in page.text
    assert "all failed" in page.text
    assert "Compared with" not in page.text


def test_no_report_is_made_of_what_is_not_there(connection: sa.Connection) -> None:
    job_id = add_scored_job(connection, {"Clarity": [0.5]})
    with pytest.raises(UnknownJob):
        render_report(connection, uuid4())
    with pytest.raises(NotPossible, match="with itself"):
        render_report(connection, job_id, job_id)
