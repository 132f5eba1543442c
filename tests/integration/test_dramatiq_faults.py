"""What Dramatiq and its brokers are known to get wrong, replayed: the rows carry the work on."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from tests.support.changed_brokers import (
    hand_back_no_messages,
    prefetch_two_delayed_messages,
    record_submissions_slowly,
)
from tests.support.processes import account, ends_well, environment, started, wait_until
from tests.support.servers import AMQP, ValkeyServer, free_port
from tests.support.tcp_proxy import TcpProxy, proxy_to
from tests.support.worker_thread import (
    RECOVERY_SECONDS,
    all_results_are_recorded_once,
    count_rows,
    enqueue_inputs,
    running_worker,
    settings_for,
)
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.store.database import Database

pytestmark = pytest.mark.timeout(300)  # they wait for long: the run begins with them


class Gate(httpx.BaseTransport):
    """Real HTTP, but the answer to the first POST waits for the test, and then gets lost."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._real = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._real.handle_request(request)
        if request.method == "POST" and not self.reached.is_set():
            response.close()
            self.reached.set()
            self.opened.wait(60)
            raise httpx.ReadError("the connection broke", request=request)
        return response

    def close(self) -> None:
        self._real.close()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """One that a test may kill."""
    server = ValkeyServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.5, 1.5))) as running:
        yield running


def of_process(database_url: str, broker_url: str, judge: RunningSandbox, **changes: Any) -> Any:
    settings = {
        "database_url": database_url,
        "broker_url": broker_url,
        "api_url": judge.url,
        "api_key": judge.api_key,
        "batch_size": 5,
        "linger_seconds": 0.1,
        "poll_min_seconds": 1,
        "lease_seconds": 5,
    }
    return environment(**(settings | changes))


@pytest.mark.parametrize(
    "away", [0.0, pytest.param(40.0, marks=[pytest.mark.long, pytest.mark.timeout(200)])]
)
def test_an_outcome_while_redis_is_away_is_no_message_that_could_be_swallowed(
    postgres_url: str,
    database_of_postgres: Database,
    own_valkey: ValkeyServer,
    judge: RunningSandbox,
    namespace: str,
    away: float,
) -> None:
    """Dramatiq would retry by a message, fail to send it, and acknowledge the first: lost."""
    enqueue_inputs(database_of_postgres, 1)
    gate = Gate()
    settings = settings_for(postgres_url, own_valkey.url(namespace), judge)
    with running_worker(settings, transport=gate) as app:
        assert gate.reached.wait(RECOVERY_SECONDS)
        own_valkey.stop(kill=True)
        gate.opened.set()
        wait_until(
            lambda: count_rows(database_of_postgres, "eval_batches WHERE state='unknown'") == 1
        )
        threading.Event().wait(away)
        own_valkey.start()
        wait_until(app.is_drained, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, 1)


def test_delayed_messages_that_a_restart_of_redis_strands_are_sent_again(
    postgres_url: str,
    database_of_postgres: Database,
    own_valkey: ValkeyServer,
    judge: RunningSandbox,
    namespace: str,
) -> None:
    """Its data is whole, but they stay with a consumer that no longer knows of them."""
    enqueue_inputs(database_of_postgres, 25)
    settings = settings_for(
        postgres_url, own_valkey.url(namespace), judge, batch_size=5, poll_min_seconds=3
    )
    with running_worker(settings) as app:
        submitted = "eval_batches WHERE state = 'submitted' AND lease_holder IS NULL"
        wait_until(lambda: count_rows(database_of_postgres, submitted) == 5)
        own_valkey.restart()
        wait_until(app.is_drained, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, 25)


def test_a_dead_delay_consumer_ends_the_process_which_is_whole_after_its_restart(
    postgres_url: str,
    database_of_postgres: Database,
    own_valkey: ValkeyServer,
    judge: RunningSandbox,
    namespace: str,
) -> None:
    """The buffer of delayed messages full, Redis away when the first is due: its thread dies."""
    enqueue_inputs(database_of_postgres, 25)
    port = free_port()
    env = of_process(
        postgres_url, own_valkey.url(namespace), judge, ops_port=port, poll_min_seconds=3
    )
    told: list[str] = []
    with started("run", env=env, prepare=[prefetch_two_delayed_messages]) as process:
        wait_until(lambda: _readiness(port) == "ok")
        wait_until(lambda: _delayed_messages_held(own_valkey) == 2)
        own_valkey.stop(kill=True)
        wait_until(
            lambda: told.append(_readiness(port)) or process.poll() is not None,  # type: ignore[func-returns-value]
            seconds=RECOVERY_SECONDS,
        )
        assert process.returncode == 1
        assert process.stderr is not None
        assert "threads have died (consumer" in process.stderr.read()
    assert any(answer.startswith("threads have died: consumer") for answer in told)
    own_valkey.start()
    with started("run", "--until-drained", env=env) as process:
        assert ends_well(process, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, 25)


def _delayed_messages_held(server: ValkeyServer) -> int:
    with redis.Redis(port=server.port) as client:
        return sum(int(client.scard(key)) for key in client.scan_iter("*__acks__*.DQ"))


def _readiness(port: int) -> str:
    with contextlib.suppress(httpx.HTTPError):
        return str(httpx.get(f"http://127.0.0.1:{port}/readyz").json()["checks"]["broker"])
    return "no answer"


def test_messages_that_a_stale_delivery_tag_acknowledged_are_not_missed(
    postgres_url: str, database_of_postgres: Database, amqp_url: str, judge: RunningSandbox
) -> None:
    """Connections to RabbitMQ drop under running steps; then the process is killed."""
    server = urlsplit(AMQP)
    enqueue_inputs(database_of_postgres, 100)
    with proxy_to(str(server.hostname), server.port or 5672) as proxy:
        through = amqp_url.replace(f":{server.port}/", f":{proxy.port}/")
        env = of_process(postgres_url, through, judge, max_in_flight=6)
        with started("run", env=env, prepare=[record_submissions_slowly]) as process:
            for taken in (2, 6, 9):
                wait_until(_has_taken(judge, taken))
                assert _cut(proxy) > 0
            wait_until(_has_taken(judge, 12))
            process.kill()
        with started("run", "--until-drained", env=env) as process:
            assert ends_well(process, seconds=2 * RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, 100)


def _cut(proxy: TcpProxy) -> int:
    wait_until(lambda: proxy.connections() > 0)
    return proxy.cut()


def _has_taken(judge: RunningSandbox, batches: int) -> Callable[[], bool]:
    return lambda: bool(account(judge)["batches"] >= batches)


@pytest.mark.parametrize("lease", [5, pytest.param(30, marks=pytest.mark.long)])
def test_a_killed_process_is_replaced_without_waiting_for_redis_to_hand_back_its_messages(
    postgres_url: str,
    database_of_postgres: Database,
    redis_url: str,
    judge: RunningSandbox,
    lease: int,
) -> None:
    """Which took minutes; here Redis never does."""
    enqueue_inputs(database_of_postgres, 25)
    env = of_process(postgres_url, redis_url, judge, lease_seconds=lease)
    with started("run", env=env, prepare=[record_submissions_slowly]) as process:
        wait_until(_has_taken(judge, 5))
        process.kill()
    with started("run", "--until-drained", env=env, prepare=[hand_back_no_messages]) as process:
        assert ends_well(
            process, seconds=RECOVERY_SECONDS + 5
        )  # the promise, and the batches themselves
    assert all_results_are_recorded_once(database_of_postgres, judge, 25)
