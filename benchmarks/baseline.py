"""The baseline: a script that submits, polls and writes scores, as a team would write it first.

It has no outbox, claims, leases, history or retries, so a crash loses the work. The worker is
compared with it, so it is as fast as asyncio, httpx and COPY allow.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import psycopg

BATCH = 100
CONCURRENCY = 16

Scores = list[tuple[int, str, float, str]]


async def _evaluate(client: httpx.AsyncClient, first: int, inputs: list[Any]) -> Scores:
    """Submit and poll one batch, and return its scores as rows."""
    response = await client.post("/v1/judges/j/batch-execute/", json={"inputs": inputs})
    status_url = response.json()["status_url"]
    while True:
        execution = (await client.get(status_url)).json()
        if execution["status"] in ("completed", "partial", "failed"):
            break
        await asyncio.sleep(1.0)
    return [
        (first + item["index"], r["evaluator_name"], r["score"], r["justification"])
        for item in execution["items"]
        for r in item["evaluator_results"]
    ]


async def _run(url: str, inputs: list[Any], write: Callable[[Scores], None]) -> None:
    starts = iter(range(0, len(inputs), BATCH))

    async def work(client: httpx.AsyncClient) -> None:
        for first in starts:
            write(await _evaluate(client, first, inputs[first : first + BATCH]))

    async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Api-Key k"}) as client:
        await asyncio.gather(*(work(client) for _ in range(CONCURRENCY)))


def _to_postgresql(url: str) -> Callable[[Scores], None]:
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(
        "CREATE TABLE plain_scores (item integer, evaluator text, score float8, why text)"
    )

    def write(rows: Iterable[Any]) -> None:
        with connection.cursor().copy("COPY plain_scores FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    return write


def _to_sqlite(path: str) -> Callable[[Scores], None]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        "CREATE TABLE plain_scores (item integer, evaluator text, score real, why text)"
    )

    def write(rows: Iterable[Any]) -> None:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO plain_scores VALUES (?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    return write


def main(url: str, database: str, file: str) -> None:
    """Print the seconds from reading the first line to writing the last score."""
    to = _to_postgresql if database.startswith("postgresql") else _to_sqlite
    write = to(database)
    began = time.perf_counter()
    with open(file) as lines:
        inputs = [json.loads(line) for line in lines]
    asyncio.run(_run(url, inputs, write))
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
