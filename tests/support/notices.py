"""Have a replica send its notices, and read what became of them."""

from __future__ import annotations

from typing import Any

from tests.support.manual_replica import ManualReplica


def tell(replica: ManualReplica, rounds: int = 1) -> None:
    """Every notice that is due, so many times."""
    for _ in range(rounds):
        replica.step()
        replica.pass_time()


def states(replica: ManualReplica) -> list[Any]:
    return [
        tuple(row)
        for row in replica.rows(
            "SELECT state, attempts, error FROM eval_notices ORDER BY created_at"
        )
    ]


def plain_job(replica: ManualReplica, url: str, **columns: str) -> None:
    """As plain SQL inserts it, whatever it says."""
    given = {
        "id": "01932f5e-0000-7000-8000-000000000001",
        "judge_id": "judge",
        "callback_url": url,
        **columns,
    }
    names, values = ", ".join(given), ", ".join(f"'{value}'" for value in given.values())
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO eval_jobs ({names}) VALUES ({values})")
