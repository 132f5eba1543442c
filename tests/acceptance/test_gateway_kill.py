"""The gateway in processes that are killed, with its worker and separate from it."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import httpx
import pytest

from tests.support.gateways import JSON_KEYS, KEY, answers, client, submit
from tests.support.notebook_client import NotebookClient
from tests.support.processes import account, environment, evalworker, started, wait_until
from tests.support.servers import free_port
from tests.support.shorter_waits import shorten_waits
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox

INPUTS = 300


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    options = SandboxOptions(latency=(0.3, 0.8), lose_answers=0.2, seed=3)
    with running_sandbox(options) as running:
        yield running


@pytest.fixture
def settings(judge: RunningSandbox) -> dict[str, object]:
    return {
        "api_url": judge.url,
        "api_key": judge.api_key,
        "gateway_keys": JSON_KEYS,
        "gateway_port": free_port(),
        "batch_size": 20,
        "max_in_flight": 6,
        "linger_seconds": 0.1,
        "poll_min_seconds": 0.2,
        "lease_seconds": 5,
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", [pytest.param("sqlite", marks=pytest.mark.long), "postgres"])
def test_a_client_survives_kills_and_restarts_of_worker_and_gateway(
    judge: RunningSandbox,
    settings: dict[str, object],
    database: str,
    request: pytest.FixtureRequest,
) -> None:
    """Meanwhile, every fifth response of the judge to a submission is lost, too."""
    env = environment(**settings, database_url=request.getfixturevalue(f"{database}_url"))
    url = f"http://127.0.0.1:{settings['gateway_port']}"
    inputs = [{"request": f"question {n}", "response": f"answer {n}"} for n in range(INPUTS)]
    notebook = NotebookClient(url, KEY, judge="response-checks", chunk=25)
    with _killed_and_started_again(judge, env, after_batches=(1, 5, 9)):
        items = notebook.evaluate(inputs)
        found = account(judge)
    assert notebook.interruptions > 0
    assert [item["index"] for item in items] == [n % 25 for n in range(INPUTS)]
    assert [item["status"] for item in items] == ["completed"] * INPUTS
    assert [item["input"]["request"] for item in items] == [given["request"] for given in inputs]
    assert all(len(item["evaluator_results"]) == 2 for item in items)
    assert (found["inputs_evaluated"], found["evaluated_again"]) == (INPUTS, 0)


@pytest.mark.timeout(300)
def test_a_client_of_a_separate_gateway_does_not_notice_that_workers_are_killed(
    judge: RunningSandbox, settings: dict[str, object], postgres_url: str
) -> None:
    """No request fails, because the gateway is another process."""
    env = environment(**settings, database_url=postgres_url)
    url = f"http://127.0.0.1:{settings['gateway_port']}"
    inputs = [{"request": f"question {n}", "response": f"answer {n}"} for n in range(INPUTS)]
    notebook = NotebookClient(url, KEY, judge="response-checks", chunk=25)
    with started("gateway", env=env):
        wait_until(lambda: answers(url), seconds=90)
        with _killed_and_started_again(judge, env, after_batches=(1, 5, 9), command=("run",)):
            items = notebook.evaluate(inputs)
    found = account(judge)
    assert notebook.interruptions == 0
    assert [item["input"]["request"] for item in items] == [given["request"] for given in inputs]
    assert [item["status"] for item in items] == ["completed"] * INPUTS
    assert (found["inputs_evaluated"], found["evaluated_again"]) == (INPUTS, 0)


class _killed_and_started_again:  # noqa: N801 (reads as a statement)
    """Kill the worker each time the judge has accepted so many batches, and start it again."""

    def __init__(
        self,
        judge: RunningSandbox,
        env: Mapping[str, str],
        *,
        after_batches: tuple[int, ...],
        command: tuple[str, ...] = ("run", "--gateway"),
    ) -> None:
        self.judge, self.env, self.after_batches = judge, env, after_batches
        self.command = command
        self.thread = threading.Thread(target=self._run)
        self.done = threading.Event()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _run(self) -> None:
        for batches in self.after_batches:
            with started(*self.command, env=self.env) as worker:
                wait_until(partial(self._has_taken, batches), seconds=90)
                assert worker.poll() is None, "it ended by itself"
                worker.kill()
                assert worker.wait() == -signal.SIGKILL
        with started(*self.command, env=self.env):
            self.done.wait()

    def _has_taken(self, batches: int) -> bool:
        return self.done.is_set() or bool(account(self.judge)["batches"] >= batches)


def test_accepted_jobs_survive_an_immediate_kill(
    settings: dict[str, object], sqlite_url: str, judge: RunningSandbox
) -> None:
    """Also while the judge is down: the gateway starts and accepts jobs without it."""
    away = {**settings, "api_url": f"http://127.0.0.1:{free_port()}"}
    url = f"http://127.0.0.1:{settings['gateway_port']}"
    with started("run", "--gateway", env=environment(**away, database_url=sqlite_url)) as worker:
        wait_until(lambda: answers(url), seconds=90)
        with client(url) as caller:
            taken = [submit(caller, f"q{n}", judge="response-checks").json() for n in range(20)]
        worker.kill()
        worker.wait()
    again = environment(**settings, database_url=sqlite_url)
    with started("run", "--gateway", env=again, prepare=[shorten_waits]):
        wait_until(lambda: answers(url), seconds=90)
        with client(url) as caller:
            for place, one in enumerate(taken):
                wait_until(partial(_is_completed, caller, one["status_url"]), seconds=90)
                item = caller.get(one["status_url"]).json()["items"][0]
                assert item["input"]["request"] == f"q{place}"


def _is_completed(caller: httpx.Client, status_url: str) -> bool:
    return bool(caller.get(status_url).json()["status"] == "completed")


def test_a_separate_gateway_serves_beside_a_worker(
    settings: dict[str, object], postgres_url: str
) -> None:
    ops = free_port()
    alone = environment(
        database_url=postgres_url,
        gateway_keys=JSON_KEYS,
        gateway_port=settings["gateway_port"],
        ops_port=ops,
    )
    url = f"http://127.0.0.1:{settings['gateway_port']}"
    with ExitStack() as around:
        gateway = around.enter_context(started("gateway", env=alone))
        wait_until(lambda: answers(url), seconds=90)
        assert httpx.get(f"http://127.0.0.1:{ops}/livez").status_code == 200
        ready = httpx.get(f"http://127.0.0.1:{ops}/readyz").json()
        assert ready["checks"] == {"database": "ok", "migrations": "ok"}
        metrics = httpx.get(f"http://127.0.0.1:{ops}/metrics").text
        assert "evalworker_database_up 1.0" in metrics
        assert "evalworker_jobs_taken_total" in metrics
        caller = around.enter_context(client(url))
        taken = submit(caller, "q", judge="response-checks").json()
        drained = evalworker(
            "run", "--until-drained", env=environment(**settings, database_url=postgres_url)
        )
        assert drained.returncode == 0, drained.stderr
        assert caller.get(taken["status_url"]).json()["status"] == "completed"
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(timeout=20) == 0


def test_a_gateway_without_keys_or_a_free_port_fails_with_the_reason(sqlite_url: str) -> None:
    keyless = evalworker("gateway", env=environment(database_url=sqlite_url))
    assert keyless.returncode == 2
    assert "EVALWORKER_GATEWAY_KEYS is not set" in keyless.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = environment(database_url=sqlite_url, gateway_keys=JSON_KEYS, gateway_port=port)
        refused = evalworker("gateway", env=env)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr
