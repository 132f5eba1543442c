"""Figures, databases and inputs, shared by the benchmarks."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.servers import PostgresServer
from worker.config import load_settings
from worker.store.database import Database
from worker.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.fake_judge_server import Observations


@dataclass(frozen=True, slots=True)
class Curve:
    """What an operation costs at growing sizes of a table."""

    name: str
    costs: dict[int, float]


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
    curve: Curve | None = None  # drawn in the plot

    @property
    def met(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target


def inputs_of(count: int, *, characters: int = 0) -> list[dict[str, Any]]:
    return [input_of(n, characters=characters) for n in range(count)]


def input_of(n: int, *, characters: int = 0) -> dict[str, Any]:
    """Return the n-th input: a question and its answer, each at least so many characters long."""
    return {
        "request": f"What is {n} plus {n + 1}? Explain briefly how you got there.".ljust(
            characters, "?"
        ),
        "response": f"{n} plus {n + 1} is {2 * n + 1}.".ljust(characters, "."),
        "expected_output": str(2 * n + 1),
    }


@contextlib.contextmanager
def migrated_postgresql() -> Iterator[PostgresServer]:
    """Run a migrated PostgreSQL that syncs to disk, as in production."""
    server = PostgresServer(durable=True)
    try:
        server.start()
        _migrate(server.url())
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def fresh_databases() -> Iterator[tuple[str, str]]:
    """Yield the URLs of a migrated PostgreSQL and of a migrated SQLite file."""
    with migrated_postgresql() as server, tempfile.TemporaryDirectory() as folder:
        sqlite = f"sqlite:///{Path(folder) / 'evalworker.db'}"
        _migrate(sqlite)
        yield server.url(), sqlite


def _migrate(url: str) -> None:
    database = Database(load_settings(database_url=url).sqlalchemy_url)
    upgrade(database)
    database.close()


def best_of(rounds: int, *measured: Callable[[], float]) -> list[float]:
    """Return the fewest seconds of each. They take turns, so that a slow moment affects all."""
    found = [[measure() for measure in measured] for _ in range(rounds)]
    return [min(column) for column in zip(*found, strict=True)]


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def mean_running(observed: Observations, began: float, until: float) -> float:
    """Return the mean number of batches running at the remote in this time."""
    spent = sum(
        max(0.0, min(ends_at, until) - max(taken_at, began))
        for taken_at, ends_at in observed.spans.values()
    )
    return spent / (until - began)


def requests_per_batch(before: Observations, after: Observations) -> dict[str, float]:
    """Return requests per batch by kind, for a time in which as many batches ended as began."""
    batches = max(1, after.batches - before.batches)
    return {
        kind: (count - before.requests.get(kind, 0)) / batches
        for kind, count in after.requests.items()
    }
