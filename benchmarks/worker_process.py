"""Run the worker in processes of its own, and read and write its database."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from worker.config import load_settings
from worker.store.database import Database
from worker.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.fake_judge_server import Remote


def environment(database_url: str, remote: Remote, **settings: object) -> dict[str, str]:
    """Return the environment of a worker that is as fast as possible; add `settings` by field."""
    given = {
        "database_url": database_url,
        "api_url": remote.url,
        "api_key": "key",
        "log_level": "WARNING",
        "linger_seconds": 0,
        "poll_min_seconds": 0.05,
        **settings,
    }
    return {**os.environ, **{f"EVALWORKER_{k.upper()}": str(v) for k, v in given.items()}}


@contextlib.contextmanager
def running_workers(
    env: dict[str, str], *, processes: int = 1, drain: bool = False
) -> Iterator[Workers]:
    """Run workers while the block runs, and kill those that are left."""
    command = [sys.executable, "-m", "worker", "run", *(["--until-drained"] if drain else [])]
    workers = Workers([subprocess.Popen(command, env=env) for _ in range(processes)])
    try:
        yield workers
    finally:
        for process in workers.processes:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Workers:
    processes: list[subprocess.Popen[bytes]]

    def wait(self) -> None:
        """Wait until all have ended by themselves. Raise `RuntimeError` if one failed."""
        for process in self.processes:
            if process.wait() != 0:
                raise RuntimeError(f"a worker ended with {process.returncode}")


@contextlib.contextmanager
def open_database(database_url: str) -> Iterator[Database]:
    database = Database(load_settings(database_url=database_url).sqlalchemy_url)
    try:
        yield database
    finally:
        database.close()


def rows(database: Database, query: str) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(sa.text(query)).all())


def working_seconds(database: Database) -> float:
    """Return the seconds from the first planned batch to the last recorded one."""
    [(first, last)] = rows(
        database,
        "SELECT min(at) FILTER (WHERE event = 'batch.planned'),"
        " max(at) FILTER (WHERE event = 'batch.finished') FROM eval_events",
    )
    return (_moment(last) - _moment(first)).total_seconds()


def _moment(value: Any) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def delete_all(database: Database) -> None:
    """Delete all jobs and everything that belongs to them."""
    names = [table.name for table in reversed(metadata.sorted_tables)]
    with database.engine.begin() as connection:
        if database.engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"TRUNCATE {', '.join(names)}")
            return
        for name in names:
            connection.exec_driver_sql(f"DELETE FROM {name}")


def insert_job(database: Database, count: int, *, characters: int = 0) -> None:
    """Insert a job with so many inputs, which PostgreSQL generates itself.

    Each has at least so many characters.
    """
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "WITH made AS (INSERT INTO eval_jobs (judge_id) VALUES ('judge') RETURNING id)"
            " INSERT INTO eval_items (job_id, item_index, request, response)"
            " SELECT id, n, 'What is ' || n || ' plus one? Explain briefly how you got there.',"
            " rpad(answer, greatest(length(answer), "
            f"{characters}), ' so it is') FROM made, generate_series(0, {count - 1}) n,"
            " LATERAL (SELECT n || ' plus one is ' || n + 1 AS answer) texts"
        )


def wait_for(condition: Any, *, seconds: float = 300.0) -> None:
    """Wait until the condition is true. Raise `TimeoutError` after so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.2)
