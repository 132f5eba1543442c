"""A process that is stopped loses its work to another and wakes up; clocks that disagree."""

from __future__ import annotations

import random
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.changed_clocks import put_the_clock_back, put_the_clock_forward
from tests.support.processes import ends_well, environment, started
from tests.support.servers import wait_until
from tests.support.shorter_waits import shorten_waits
from tests.support.stopped_process import (
    stop_at_the_first_byte_of_the_post,
    stop_between_claim_and_post,
    stop_between_post_and_record,
    stop_between_results_and_record,
    stop_in_a_claiming_transaction,
    stop_in_the_planning_transaction,
)
from tests.support.worker_thread import (
    RECOVERY_SECONDS,
    all_results_are_recorded_once,
    count_rows,
    enqueue_inputs,
)
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("postgres")

INPUTS = 20
SHORT_LEASE = 3.0  # seconds: less than the setting allows, but for `shorten_waits`


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.2, 0.5))) as running:
        yield running


def environment_of(database_url: str, judge: RunningSandbox, **changes: Any) -> Mapping[str, str]:
    settings = {
        "database_url": database_url,
        "api_url": judge.url,
        "api_key": judge.api_key,
        "batch_size": 10,
        "linger_seconds": 0.1,
        "poll_min_seconds": 0.2,
        "lease_seconds": 5,
    }
    return environment(**(settings | changes))


def history(database: Database) -> list[Any]:
    """Return all events and batches; a gate may still count the failure of the stopped process."""
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT id, event, detail FROM eval_events"
            " WHERE event NOT IN ('gate.closed', 'gate.opened') ORDER BY id"
        )
        batches = connection.exec_driver_sql("SELECT * FROM eval_batches ORDER BY id")
        return [*rows.all(), *batches.all()]


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(stop_between_claim_and_post, marks=pytest.mark.long),
        stop_at_the_first_byte_of_the_post,
        stop_between_post_and_record,
        pytest.param(stop_between_results_and_record, marks=pytest.mark.long),
    ],
)
def test_a_process_that_wakes_up_after_its_lease_went_to_another_writes_and_sends_nothing(
    database_url: str, database: Database, judge: RunningSandbox, stop: Callable[[], None]
) -> None:
    stop_and_take_over(database_url, database, judge, stop)


@pytest.mark.parametrize(
    "stop",
    [
        stop_in_the_planning_transaction,
        pytest.param(stop_in_a_claiming_transaction, marks=pytest.mark.long),
    ],
)
def test_a_process_that_is_stopped_inside_a_transaction_does_not_hold_up_the_others(
    postgres_url: str,
    database_of_postgres: Database,
    judge: RunningSandbox,
    stop: Callable[[], None],
) -> None:
    """It holds locks, the planner's among them; PostgreSQL ends a transaction that goes quiet."""
    stop_and_take_over(postgres_url, database_of_postgres, judge, stop)


@pytest.mark.long
def test_a_transaction_that_goes_quiet_is_ended_behind_a_pooler_too(
    pgbouncer_url: str, database_of_postgres: Database, judge: RunningSandbox
) -> None:
    stop_and_take_over(pgbouncer_url, database_of_postgres, judge, stop_in_the_planning_transaction)


def stop_and_take_over(
    database_url: str, database: Database, judge: RunningSandbox, stop: Callable[[], None]
) -> None:
    """One process stops itself, another finishes the work, and the first one changes nothing."""
    enqueue_inputs(database, INPUTS)
    env = environment_of(database_url, judge, lease_seconds=SHORT_LEASE)
    with started("run", "--until-drained", env=env, prepare=[shorten_waits, stop]) as sleeper:
        wait_until(sleeper.is_stopped, seconds=RECOVERY_SECONDS)
        with started("run", "--until-drained", env=env, prepare=[shorten_waits]) as other:
            assert ends_well(other, seconds=2 * RECOVERY_SECONDS)
        assert all_results_are_recorded_once(database, judge, INPUTS)
        before = history(database)
        sleeper.send_signal(signal.SIGCONT)
        assert ends_well(sleeper, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database, judge, INPUTS)
    assert history(database) == before


@pytest.mark.long
@pytest.mark.timeout(600)
def test_processes_that_are_stopped_and_woken_at_any_time_evaluate_nothing_twice(
    postgres_url: str, database_of_postgres: Database, redis_url: str, judge: RunningSandbox
) -> None:
    rng = random.Random(7)
    enqueue_inputs(database_of_postgres, 1500)
    env = environment_of(postgres_url, judge, broker_url=redis_url, max_in_flight=4)
    with ExitStack() as stack:
        ours = [stack.enter_context(started("run", env=env)) for _ in range(3)]
        while count_rows(database_of_postgres, "eval_jobs WHERE finished_at IS NULL"):
            victim = rng.choice(ours)
            victim.send_signal(signal.SIGSTOP)
            pause = rng.choice([0.5, 6.0, 12.0])
            with pytest.raises(TimeoutError):
                wait_until(lambda: False, seconds=pause)
            victim.send_signal(signal.SIGCONT)
    assert all_results_are_recorded_once(database_of_postgres, judge, 1500)


def test_two_machines_whose_clocks_are_a_minute_apart_share_the_work(
    postgres_url: str, database_of_postgres: Database, redis_url: str, judge: RunningSandbox
) -> None:
    """Leases and due times are by the database's clock; the brokers' delays are only hints."""
    enqueue_inputs(database_of_postgres, 200)
    env = environment_of(postgres_url, judge, broker_url=redis_url, max_in_flight=4)
    with (
        started("run", "--until-drained", env=env, prepare=[put_the_clock_back]) as behind,
        started("run", "--until-drained", env=env, prepare=[put_the_clock_forward]) as ahead,
    ):
        assert ends_well(behind, seconds=2 * RECOVERY_SECONDS)
        assert ends_well(ahead, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, 200)
    claimed_again = "eval_batches WHERE submissions > 1"
    assert count_rows(database_of_postgres, claimed_again) == 0
