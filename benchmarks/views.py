"""Reading one job through the views, out of tables with many."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import psycopg

from benchmarks.measurement import Curve, Figure, migrated_postgresql

SCORES = 10_000_000
SIZES = (0.01, 0.1, 1.0)  # shares of SCORES at which the views are read
INPUTS = 100  # in a job
EVALUATORS = 5  # each gives a score to every input
JOBS_READ = 200
VIEWS = ("eval_scores", "eval_item_results", "eval_job_progress")


def figures(share: float) -> list[Figure]:
    jobs = int(SCORES * share) // (INPUTS * EVALUATORS)
    with migrated_postgresql() as server, psycopg.connect(server.url()) as connection:
        filled = 0
        took: dict[str, dict[int, float]] = {view: {} for view in VIEWS}
        for size in SIZES:
            _fill(connection, max(int(jobs * size), 1) - filled)
            filled = max(int(jobs * size), 1)
            for view in VIEWS:
                took[view][filled * INPUTS * EVALUATORS] = _milliseconds(connection, view)
        scans = [scan for view in VIEWS for scan in _sequential_scans(connection, view)]
    scores = filled * INPUTS * EVALUATORS
    return [
        Figure(
            f"a job's rows by the views, {scores:,} scores in the table: sequential scans",
            compared_with="index scans only, by EXPLAIN",
            value=len(scans),
            target=0,
            at_most=True,
            detail=", ".join(scans) or ", ".join(VIEWS),
        ),
        Figure(
            f"one job of {INPUTS} inputs read from `eval_scores`, median",
            compared_with=f"{INPUTS * EVALUATORS} rows",
            value=took["eval_scores"][scores],
            target=10,
            at_most=True,
            unit="ms",
            detail=", ".join(f"{view} {took[view][scores]:.1f} ms" for view in VIEWS[1:]),
            curve=Curve("a job read by its view, by scores in the table", took["eval_scores"]),
        ),
    ]


def _fill(connection: psycopg.Connection[Any], jobs: int) -> None:
    """Insert so many ended jobs, each with a batch of its own."""
    # All references are valid, and checking them would take most of the time.
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT eval_uuid7() AS job_id,"
        f" gen_random_uuid() AS batch_id FROM generate_series(1, {jobs})".encode()
    )
    connection.execute(
        "INSERT INTO eval_jobs (id, judge_id, status, due_at, finished_at)"
        " SELECT job_id, 'judge', 'completed', NULL, now() FROM made"
    )
    connection.execute(
        "INSERT INTO eval_batches (id, judge_id, tags, state, item_count, created_at)"
        f" SELECT batch_id, 'judge', '[]', 'finished', {INPUTS}, now() FROM made".encode()
    )
    connection.execute(
        "INSERT INTO eval_items (job_id, item_index, request, response, status, attempts,"
        " batch_id, batch_index, finished_at)"
        " SELECT job_id, n, 'a question', 'an answer', 'completed', 1, batch_id, n, now()"
        f" FROM made, generate_series(0, {INPUTS - 1}) n".encode()
    )
    connection.execute(
        "INSERT INTO eval_evaluator_results"
        " (job_id, item_index, position, evaluator_name, score, justification)"
        " SELECT job_id, n, e, 'evaluator ' || e, 0.5, 'The response was weighed.'"
        f" FROM made, generate_series(0, {INPUTS - 1}) n,"
        f" generate_series(0, {EVALUATORS - 1}) e".encode()
    )
    connection.commit()
    connection.execute("SET session_replication_role = origin")
    connection.execute("ANALYZE")
    connection.commit()


def _milliseconds(connection: psycopg.Connection[Any], view: str) -> float:
    """Return the median milliseconds to fetch all rows of a random job."""
    rng = random.Random(1)
    job_ids = [row[0] for row in connection.execute("SELECT id FROM eval_jobs").fetchall()]
    query = f"SELECT * FROM {view} WHERE job_id = %s".encode()
    took = []
    for job_id in rng.choices(job_ids, k=JOBS_READ):
        began = time.perf_counter()
        connection.execute(query, [job_id]).fetchall()
        took.append(time.perf_counter() - began)
    return median(took) * 1e3


def _sequential_scans(connection: psycopg.Connection[Any], view: str) -> Iterator[str]:
    [(job_id,)] = connection.execute("SELECT id FROM eval_jobs LIMIT 1").fetchall()
    query = f"EXPLAIN (FORMAT JSON) SELECT * FROM {view} WHERE job_id = %s".encode()
    [([plan],)] = connection.execute(query, [job_id]).fetchall()
    for node in _nodes(plan["Plan"]):
        if node["Node Type"] == "Seq Scan":
            yield f"{view} over {node['Relation Name']}"


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    yield from itertools.chain.from_iterable(_nodes(below) for below in node.get("Plans", []))
