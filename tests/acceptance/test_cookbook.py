"""Every recipe of docs/cookbook.md is run on both databases and comes to what the page shows.

The results are real ones: enqueued, worked and judged by the sandbox as in production. Only the
weeks in which they ended are set afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from scripts.generate_docs import ROOT
from tests.support.worker_thread import settings_for
from worker import enqueue
from worker.app import App
from worker.judge.judges import Judge
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox
from worker.store.tables import items, jobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from worker.store.database import Database

PAGE = ROOT / "docs" / "cookbook.md"
RECIPE = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
QUERY = re.compile(r'^```sql(?: title="(\w+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ONCE = re.compile(r'^```sql title="PostgreSQL, once"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TABLE_ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)

QUESTIONS = {"The capital of Peru?": "Lima", "2 + 2?": "4", "The author of Faust?": "Goethe"}
FIRST_PROMPT = ["It is Lima.", "It is 5.", "Schiller"]
SECOND_PROMPT = ["Lima", "4", "It is Goethe."]
ODD = ({"request": "The meaning of life?", "response": "42"},)  # this judge needs what is expected


@dataclass(frozen=True)
class Recipe:
    title: str
    queries: dict[str, str]  # by database
    shown: list[list[str]]  # the table under it, with its head


def recipes() -> list[Recipe]:
    found = []
    for title, text in RECIPE.findall(PAGE.read_text("utf-8")):
        queries = {}
        for database, query in QUERY.findall(text):
            for name in [database.lower()] if database else ["postgresql", "sqlite"]:
                queries[name] = query
        rows = [re.split(r"\s*\|\s*", row) for row in TABLE_ROW.findall(text)]
        found.append(Recipe(title, queries, [row for row in rows if set(row) != {"---"}]))
    return found


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.05, 0.1))) as running:
        yield running


def work(database: Database, judge: RunningSandbox) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    settings = settings_for(url, "memory://", judge, max_item_attempts=2)
    with App(settings) as app:
        app.run(until=app.is_drained)


def put(
    database: Database,
    responses: list[str],
    *,
    more: tuple[Mapping[str, str], ...] = (),
    **job: Any,
) -> UUID:
    asked = zip(QUESTIONS.items(), responses, strict=True)
    inputs = [
        {
            "request": question,
            "response": response,
            "expected_output": expected,
            "metadata": {"case": f"C-{number}"},
        }
        for number, ((question, expected), response) in enumerate(asked, 1)
    ]
    with database.engine.begin() as connection:
        return enqueue(connection, judge_id="answer-quality", inputs=[*inputs, *more], **job)


@pytest.fixture
def results(database: Database, judge: RunningSandbox, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Two prompts, judged in two weeks; meanwhile the judge got a new version at the remote."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id integer PRIMARY KEY, customer text)")
        connection.exec_driver_sql("INSERT INTO orders VALUES (17, 'Ada'), (18, 'Grace')")
    first_week, second_week = (datetime(2026, 11, day, 12, tzinfo=UTC) for day in (4, 11))
    monkeypatch.setattr(Judge, "version_id", "1")
    first = put(database, FIRST_PROMPT, tags=["nightly", "prompt-1"], metadata={"order": 17})
    work(database, judge)
    monkeypatch.setattr(Judge, "version_id", "2")
    second = put(
        database, SECOND_PROMPT, tags=["nightly", "prompt-2"], metadata={"order": 18}, more=ODD
    )
    work(database, judge)
    waiting = put(database, SECOND_PROMPT, tags=["nightly"])
    with database.engine.begin() as connection:
        for job_id, ended in ((first, first_week), (second, second_week)):
            connection.execute(
                sa.update(items).where(items.c.job_id == job_id).values(finished_at=ended)
            )
        connection.execute(
            sa.update(jobs).where(jobs.c.id == waiting).values(created_at=second_week)
        )
    return database


def test_every_recipe_returns_what_the_page_shows(results: Database) -> None:
    name = results.engine.dialect.name
    tried = recipes()
    assert len(tried) >= 9
    with results.engine.begin() as connection:
        if name == "postgresql":
            for statement in ONCE.findall(PAGE.read_text("utf-8")):
                connection.exec_driver_sql(statement)
        for recipe in tried:
            found = connection.exec_driver_sql(recipe.queries[name])
            come_to = [list(found.keys()), *([plain(value) for value in row] for row in found)]
            assert come_to == recipe.shown, recipe.title


def plain(value: object) -> str:
    """As the page shows it."""
    if value is None:
        return ""
    if isinstance(value, Decimal | float):
        return f"{float(value):g}"
    return str(value)
