"""A real process, really killed: nothing lost, nothing judged twice, on every combination."""

from __future__ import annotations

import signal
import socket
from functools import partial
from pathlib import Path

import pytest

from tests.support.processes import (
    account,
    environment,
    evalworker,
    started,
    wait_until,
    write_questions,
)
from worker.config import load_settings
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox
from worker.store.database import Database

STACKS = [
    ("sqlite", "memory"),
    ("postgres", "redis"),
    pytest.param(("postgres", "amqp"), marks=pytest.mark.long),
    pytest.param(("postgres", "same"), marks=pytest.mark.long),
    ("pgbouncer", "same"),
]
INPUTS = 400


@pytest.fixture(params=STACKS, ids="-".join)
def stack(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database and a broker, by URL."""
    database, broker = request.param
    database_url = request.getfixturevalue(f"{database}_url")
    if broker == "same":
        return database_url, database_url
    return database_url, request.getfixturevalue(f"{broker}_url")


def test_sigkill_loses_nothing_and_bills_nothing_twice(
    stack: tuple[str, str], tmp_path: Path
) -> None:
    """While every fifth answer to a submission gets lost, too."""
    options = SandboxOptions(latency=(0.5, 1.5), lose_answers=0.2, seed=3)
    with running_sandbox(options) as judge:
        env = environment(
            database_url=stack[0],
            broker_url=stack[1],
            api_url=judge.url,
            api_key=judge.api_key,
            batch_size=20,
            max_in_flight=6,
            linger_seconds=0.1,
            poll_min_seconds=0.2,
            lease_seconds=5,
        )
        questions = write_questions(tmp_path / "questions.jsonl", INPUTS)
        enqueued = evalworker("enqueue", questions, "--judge", "response-checks", env=env)
        assert enqueued.returncode == 0, enqueued.stderr
        for batches in (2, 6, 11):
            with started("run", env=env) as worker:
                wait_until(partial(_has_taken, judge, batches))
                assert worker.poll() is None, "it ended by itself"
                worker.kill()
                assert worker.wait() == -signal.SIGKILL
        drained = evalworker("run", "--until-drained", env=env)
        assert drained.returncode == 0, drained.stderr
        found = account(judge)
    assert (found["inputs_evaluated"], found["evaluated_again"]) == (INPUTS, 0)
    database = Database(load_settings(database_url=stack[0]).sqlalchemy_url)
    with database.read() as connection:
        row = connection.exec_driver_sql(
            "SELECT status, total, completed, failed FROM eval_job_progress"
        ).one()
        scores = connection.exec_driver_sql(
            "SELECT count(*), count(DISTINCT item_index) FROM eval_scores"
        ).one()
    database.close()
    assert tuple(row) == ("completed", INPUTS, INPUTS, 0)
    assert tuple(scores) == (2 * INPUTS, INPUTS)


def _has_taken(judge: RunningSandbox, batches: int) -> bool:
    return bool(account(judge)["batches"] >= batches)


def test_sigterm_ends_in_order_and_releases_every_lease(sqlite_url: str, tmp_path: Path) -> None:
    with running_sandbox(SandboxOptions(latency=(1.0, 2.0))) as judge:
        env = environment(
            database_url=sqlite_url, api_url=judge.url, api_key=judge.api_key, linger_seconds=0
        )
        questions = write_questions(tmp_path / "questions.jsonl", 150)
        evalworker("enqueue", questions, "--judge", "response-checks", env=env)
        with started("run", env=env) as worker:
            wait_until(lambda: account(judge)["batches"] == 2)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=30) == 0
        database = Database(sqlite_url)
        with database.read() as connection:
            held = connection.exec_driver_sql(
                "SELECT count(*) FROM eval_batches WHERE lease_holder IS NOT NULL"
            ).scalar()
        database.close()
        assert held == 0
        assert evalworker("run", "--until-drained", env=env).returncode == 0
        assert account(judge)["evaluated_again"] == 0


def test_a_second_sigterm_ends_immediately(sqlite_url: str, tmp_path: Path) -> None:
    """While a step hangs on a judge that does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment(
            database_url=sqlite_url,
            api_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
            api_key="key",
            linger_seconds=0,
        )
        questions = write_questions(tmp_path / "questions.jsonl", 1)
        evalworker("enqueue", questions, "--judge", "j", env=env)
        database = Database(sqlite_url)

        def submitting() -> bool:
            with database.read() as connection:
                found = connection.exec_driver_sql("SELECT state FROM eval_batches").scalar()
            return found == "submitting"

        with started("run", env=env) as worker:
            wait_until(submitting, seconds=40)
            worker.send_signal(signal.SIGTERM)
            with pytest.raises(TimeoutError):
                wait_until(lambda: worker.poll() is not None, seconds=1)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=5) == 128 + signal.SIGTERM
        assert submitting()
        database.close()
