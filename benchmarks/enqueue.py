"""`enqueue`, compared with the fastest way to insert the same rows into the same tables."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa

from benchmarks.measurement import Figure, best_of, fresh_databases, inputs_of
from worker import enqueue
from worker.config import load_settings

INPUTS = 50_000
ROUNDS = 3
COLUMNS = "job_id, item_index, request, response, expected_output"


def figures(share: float) -> list[Figure]:
    inputs = inputs_of(int(INPUTS * share))
    with fresh_databases() as (postgresql, sqlite):
        return [
            _compared("PostgreSQL", "COPY of the same rows", postgresql, inputs, _copy),
            _compared("SQLite", "`executemany` of the same rows", sqlite, inputs, _executemany),
        ]


def _compared(
    name: str,
    baseline_name: str,
    url: str,
    inputs: list[dict[str, Any]],
    baseline: Callable[[str, list[dict[str, Any]]], float],
) -> Figure:
    plain, ours = best_of(ROUNDS, lambda: baseline(url, inputs), lambda: _by_enqueue(url, inputs))
    return Figure(
        f"`enqueue` of {len(inputs):,} inputs, {name}",
        compared_with=baseline_name,
        value=plain / ours,
        target=0.6,
        detail=f"{len(inputs) / ours:,.0f} inputs/s",
    )


def _by_enqueue(url: str, inputs: list[dict[str, Any]]) -> float:
    engine = sa.create_engine(load_settings(database_url=url).sqlalchemy_url)
    engine.connect().close()
    began = time.perf_counter()
    with engine.begin() as connection:
        enqueue(connection, judge_id="judge", inputs=inputs)
    took = time.perf_counter() - began
    engine.dispose()
    return took


def _job(execute: Callable[[str], Any]) -> UUID:
    job: UUID = execute("INSERT INTO eval_jobs (judge_id) VALUES ('judge') RETURNING id")
    return job


def _copy(url: str, inputs: list[dict[str, Any]]) -> float:
    with psycopg.connect(url) as connection:
        began = time.perf_counter()
        job = _job(lambda sql: connection.execute(sql.encode()).fetchone()[0])  # type: ignore[index]
        statement = f"COPY eval_items ({COLUMNS}) FROM STDIN"
        with connection.cursor().copy(statement.encode()) as copy:
            for index, given in enumerate(inputs):
                copy.write_row(
                    (job, index, given["request"], given["response"], given["expected_output"])
                )
        connection.commit()
        return time.perf_counter() - began


def _executemany(url: str, inputs: list[dict[str, Any]]) -> float:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    began = time.perf_counter()
    job = _job(lambda sql: connection.execute(sql).fetchone()[0])
    connection.executemany(
        f"INSERT INTO eval_items ({COLUMNS}) VALUES (?, ?, ?, ?, ?)",
        [
            (job, index, given["request"], given["response"], given["expected_output"])
            for index, given in enumerate(inputs)
        ],
    )
    connection.commit()
    took = time.perf_counter() - began
    connection.close()
    return took
