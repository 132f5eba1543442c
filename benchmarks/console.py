"""Pages of the console over tables with millions of scores."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from benchmarks.measurement import Figure, fresh_databases, seconds
from tests.support.consoles import OpenOverviews, open_console
from worker.config import load_settings
from worker.store import rollup_backfill
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    import httpx

SCORES = {"postgresql": 10_000_000, "sqlite": 1_000_000}
EVALUATORS = 5
INPUTS = 100  # in a job
LARGE_INPUTS = 10_000  # in each of the two newest jobs
ROUNDS = 5
SLOWEST_MS = 1000.0  # that any page may take
VIEWERS = 10
MINUTES = 5  # for which they look, on a clock that does not wait
MOST_OF_ONE = 1.1  # of the statements that one viewer causes


def figures(share: float) -> list[Figure]:
    found = []
    with fresh_databases() as (postgresql, sqlite):
        for name, url in (("postgresql", postgresql), ("sqlite", sqlite)):
            database = Database(load_settings(database_url=url).sqlalchemy_url)
            scores = max(int(SCORES[name] * share), 2 * INPUTS * EVALUATORS)
            first, second = _fill(database, scores)
            took = _measure(database, first, second)
            found.append(_figure(name, scores, took))
            found.append(_shared_figure(name, database))
            database.close()
    return found


def _figure(name: str, scores: int, took: Mapping[str, float]) -> Figure:
    slowest = max(took, key=lambda path: took[path])
    return Figure(
        f"the slowest page of the console, {scores:,} scores in {name}",
        compared_with="medians of warm requests",
        value=took[slowest] * 1e3,
        target=SLOWEST_MS,
        at_most=True,
        unit="ms",
        detail=", ".join(f"{path} {spent * 1e3:.0f} ms" for path, spent in took.items()),
    )


def _shared_figure(name: str, database: Database) -> Figure:
    alone, together = OpenOverviews(database), OpenOverviews(database)
    alone.refresh(people=1, minutes=MINUTES)
    together.refresh(people=VIEWERS, minutes=MINUTES)
    return Figure(
        f"{VIEWERS} viewers of the overview against one, in {name}",
        compared_with="statements in the same time",
        value=together.statements / alone.statements,
        target=MOST_OF_ONE,
        at_most=True,
        unit="times",
        detail=f"{together.statements / MINUTES:.0f} statements and "
        f"{together.seconds / MINUTES * 1e3:.0f} ms of the database a minute, one viewer "
        f"{alone.statements / MINUTES:.0f} and {alone.seconds / MINUTES * 1e3:.0f} ms",
    )


def _measure(database: Database, first: UUID, second: UUID) -> dict[str, float]:
    job = f"/jobs/{second}"
    pages = {
        "overview": "/",
        "jobs": "/jobs",
        "jobs without a match": "/jobs?tag=none",
        "a large job": job,
        "its inputs": f"{job}/inputs",
        "the worst": f"{job}/inputs?sort=worst",
        "a bar": f"{job}/inputs?evaluator=evaluator+1&min=0.1&below=0.2&sort=worst",
        "text without a match": f"{job}/inputs?q=nothing",
        "an input": f"{job}/inputs/7?sort=worst",
        "two large jobs": f"/compare?a={first}&b={second}",
        "by request": f"/compare?a={first}&b={second}&by=request",
        "failures": "/failures",
        "batches": "/batches",
        "its batches": f"/batches?job={second}",
        "events": "/events",
        "events by people": "/events?by=people",
    }
    with open_console(database) as client:
        return {name: _median_seconds(client, path) for name, path in pages.items()}


def _median_seconds(client: httpx.Client, path: str) -> float:
    return median(seconds(lambda: client.get(path).raise_for_status()) for _ in range(ROUNDS))


def _fill(database: Database, scores: int) -> tuple[UUID, UUID]:
    """Insert ended jobs with so many scores, the two newest of them large, and return these two."""
    small = max(1, scores // (INPUTS * EVALUATORS) - 2 * LARGE_INPUTS // INPUTS)
    large_size = min(LARGE_INPUTS, scores // (2 * EVALUATORS))
    ids = [uuid7() for _ in range(small + 2)]
    sizes = [INPUTS] * small + [large_size] * 2
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE numbers (n INTEGER)")
        numbers = [{"n": n} for n in range(large_size)]
        connection.execute(sa.text("INSERT INTO numbers VALUES (:n)"), numbers)
        rows = [
            {"id": str(one) if not database.on_postgresql else one, "size": size}
            for one, size in zip(ids, sizes, strict=True)
        ]
        kind = "uuid" if database.on_postgresql else "TEXT"
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE made (id {kind}, size INTEGER)")
        connection.execute(sa.text("INSERT INTO made VALUES (:id, :size)"), rows)
        for statement in STATEMENTS:
            connection.execute(sa.text(statement))
    rollup_backfill.fill(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    return ids[-2], ids[-1]


STATEMENTS = (
    "INSERT INTO eval_jobs (id, judge_id, tags, status, due_at, finished_at)"
    " SELECT id, 'judge', '[\"nightly\"]', 'completed', NULL, created_at"
    " FROM (SELECT id, CURRENT_TIMESTAMP AS created_at FROM made) AS ended",
    "INSERT INTO eval_batches"
    " (id, judge_id, tags, state, item_count, created_at, submitted_at, finished_at)"
    " SELECT id, 'judge', '[]', 'finished', 100, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP,"
    " CURRENT_TIMESTAMP FROM made",
    "INSERT INTO eval_items (job_id, item_index, request, response, expected_output, status,"
    " attempts, batch_id, batch_index, error, finished_at)"
    " SELECT id, n, 'What is ' || n || ' plus one?', 'It is ' || (n + 1), 'It is ' || (n + 1),"
    " CASE WHEN n % 100 = 99 THEN 'failed' ELSE 'completed' END, 1, id, n % 100,"
    " CASE WHEN n % 100 = 99 THEN 'The evaluator did not answer in time.' END, CURRENT_TIMESTAMP"
    " FROM made JOIN numbers ON n < size",
    "INSERT INTO eval_evaluator_results"
    " (job_id, item_index, position, evaluator_name, score, justification)"
    " SELECT id, numbers.n, e.n, 'evaluator ' || e.n,"
    " ((numbers.n * 7 + e.n * 13 + size) % 101) / 100.0,"
    " 'The response was weighed, and found to be as it is.'"
    " FROM made JOIN numbers ON numbers.n < size AND numbers.n % 100 < 99"
    f" JOIN (SELECT n FROM numbers WHERE n < {EVALUATORS}) AS e ON TRUE",
    "INSERT INTO eval_events (at, event, job_id, batch_id)"
    " SELECT CURRENT_TIMESTAMP, word, id, id FROM made"
    " JOIN (SELECT 'batch.planned' AS word UNION SELECT 'batch.finished') AS words ON TRUE",
)
