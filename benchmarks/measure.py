"""What the benchmarks share: a figure, the servers, and made-up inputs."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers import PostgresServer

from worker.config import load_settings
from worker.migrating import upgrade
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table; `value` is a ratio unless `unit` says otherwise."""

    name: str
    compared_with: str
    value: float
    target: float
    at_most: bool = False  # whether the target is an upper bound
    unit: str = ""
    detail: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target


def inputs_of(count: int) -> list[dict[str, Any]]:
    """Questions and answers of the length that short ones have."""
    return [
        {
            "request": f"What is {n} plus {n + 1}? Explain briefly how you got there.",
            "response": f"{n} plus {n + 1} is {2 * n + 1}.",
            "expected_output": str(2 * n + 1),
        }
        for n in range(count)
    ]


@contextlib.contextmanager
def fresh_databases() -> Iterator[tuple[str, str]]:
    """URLs of a PostgreSQL, durable as in production, and of a SQLite file; both migrated."""
    server = PostgresServer(durable=True)
    try:
        server.start()
        with tempfile.TemporaryDirectory() as folder:
            urls = server.url(), f"sqlite:///{Path(folder) / 'evalworker.db'}"
            for url in urls:
                database = Database(load_settings(database_url=url).sqlalchemy_url)
                upgrade(database)
                database.close()
            yield urls
    finally:
        server.close()


def best_of(rounds: int, *measured: Callable[[], float]) -> list[float]:
    """The least seconds of each, measured in turns, so that a slow moment hits all alike."""
    found = [[measure() for measure in measured] for _ in range(rounds)]
    return [min(column) for column in zip(*found, strict=True)]


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
