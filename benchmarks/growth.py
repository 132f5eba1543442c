"""How large the database becomes with its inputs, and what it costs that their rows are updated.

Two jobs, one after the other, of inputs with two results each; autovacuum is as the schema sets it.
Then a job with long texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.fake_judge_server import running_fake_judge
from benchmarks.measurement import Figure, migrated_postgresql
from benchmarks.worker_process import (
    delete_all,
    environment,
    insert_job,
    open_database,
    rows,
    running_workers,
    wait_for,
)

if TYPE_CHECKING:
    from benchmarks.fake_judge_server import Remote
    from tests.support.servers import PostgresServer
    from worker.store.database import Database

INPUTS = 100_000
LONG_INPUTS = 20_000
LONG = 1800  # characters; PostgreSQL keeps such a text inside the row
VACUUM_SECONDS = 180.0  # autovacuum begins once a minute
UPDATED = "eval_items"


@dataclass(frozen=True, slots=True)
class Size:
    """The bytes of a table and of its indexes."""

    table: int
    indexes: int

    @property
    def whole(self) -> int:
        return self.table + self.indexes


@dataclass(frozen=True, slots=True)
class Run:
    """The sizes of all tables, by name, while a job goes through the worker."""

    enqueued: dict[str, Size]
    ended: dict[str, Size]
    dead: float  # the share of dead rows at the end


def figures(share: float) -> list[Figure]:
    inputs, long_inputs = int(INPUTS * share), int(LONG_INPUTS * share)
    with (
        migrated_postgresql() as server,
        running_fake_judge() as remote,
        open_database(server.url()) as database,
    ):
        first, second = (_run(server, remote, database, inputs) for _ in range(2))
        server.execute("VACUUM FULL")
        least = _sizes(database)
        delete_all(database)
        long = _run(server, remote, database, long_inputs, characters=LONG)
    grown = _whole(second.ended) - _whole(first.ended)
    largest = sorted(first.ended, key=lambda name: -first.ended[name].whole)[:2]
    return [
        Figure(
            f"database after {inputs:,} inputs with two results each",
            compared_with="the same rows, written once",
            value=_whole(first.ended) / (_whole(least) / 2),
            target=2.2,
            at_most=True,
            detail=f"{_whole(first.ended) / inputs:,.0f} and {_whole(least) / 2 / inputs:,.0f}"
            " bytes an input; " + ", ".join(_bytes(name, first.ended, inputs) for name in largest),
        ),
        Figure(
            f"what the next {inputs:,} inputs add to it",
            compared_with="the same rows, written once",
            value=grown / (_whole(least) / 2),
            target=1.5,
            at_most=True,
            detail=f"{grown / inputs:,.0f} bytes an input; dead rows at the end of the two jobs:"
            f" {100 * first.dead:.0f} and {100 * second.dead:.0f} %",
        ),
        *(
            Figure(
                f"`{UPDATED}` after a job, texts of {characters} characters",
                compared_with="as enqueued",
                value=run.ended[UPDATED].whole / run.enqueued[UPDATED].whole,
                target=3.2,
                at_most=True,
                detail=f"{run.enqueued[UPDATED].whole / count:,.0f} and"
                f" {run.ended[UPDATED].whole / count:,.0f} bytes an input",
            )
            for run, count, characters in ((first, inputs, "80"), (long, long_inputs, f"{LONG:,}"))
        ),
    ]


def _run(
    server: PostgresServer, remote: Remote, database: Database, inputs: int, *, characters: int = 0
) -> Run:
    insert_job(database, inputs, characters=characters)
    enqueued = _sizes(database)
    env = environment(server.url(), remote, max_in_flight=32)
    with running_workers(env, drain=True) as workers:
        workers.wait()
    ended, dead = _sizes(database), _dead_rows(database)
    wait_for(lambda: _dead_rows(database) < 0.1, seconds=VACUUM_SECONDS)
    return Run(enqueued, ended, dead)


def _sizes(database: Database) -> dict[str, Size]:
    found = rows(
        database,
        "SELECT relname, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class"
        " WHERE relkind = 'r' AND relname LIKE 'eval\\_%'",
    )
    return {name: Size(table, indexes) for name, table, indexes in found}


def _whole(sizes: dict[str, Size]) -> int:
    return sum(size.whole for size in sizes.values())


def _bytes(name: str, sizes: dict[str, Size], inputs: int) -> str:
    size = sizes[name]
    return f"{name} {size.table / inputs:.0f} and its indexes {size.indexes / inputs:.0f}"


def _dead_rows(database: Database) -> float:
    """Return their share of the rows of the two large tables, as the statistics say."""
    [(dead, live)] = rows(
        database,
        "SELECT sum(n_dead_tup), sum(n_live_tup) FROM pg_stat_user_tables"
        " WHERE relname IN ('eval_items', 'eval_evaluator_results')",
    )
    return float(dead / max(1, dead + live))
