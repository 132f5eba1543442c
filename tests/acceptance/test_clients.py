"""The vendor's own Python clients, against the sandbox and against the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import JSON_KEYS, KEY, OTHER_KEY, answers
from tests.support.notebook_client import NotebookClient
from tests.support.processes import environment, evalworker, started, wait_until
from tests.support.servers import free_port
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox

JUDGE = "answer-quality"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of a sandbox and of a gateway before it; both take the same key."""
    folder: Path = tmp_path_factory.mktemp("clients")
    port = free_port()
    with running_sandbox(SandboxOptions(latency=(0.1, 0.3), api_key=KEY)) as judge:
        env = environment(
            database_url=f"sqlite:///{folder}/evalworker.db",
            api_url=judge.url,
            api_key=KEY,
            gateway_keys=JSON_KEYS,
            gateway_port=port,
            linger_seconds=0,
            poll_min_seconds=0.1,
            max_item_attempts=1,
        )
        assert evalworker("migrate", env=env).returncode == 0
        with started("run", "--gateway", env=env):
            url = f"http://127.0.0.1:{port}"
            wait_until(partial(answers, url), seconds=90)
            yield {"sandbox": judge.url, "gateway": url}


@pytest.fixture(params=["sandbox", "gateway"])
def url(request: pytest.FixtureRequest, servers: dict[str, str]) -> str:
    return servers[request.param]


CLIENTS = [("root", "RootSignals"), ("scorable", "Scorable")]


@pytest.mark.parametrize(("package", "client"), CLIENTS)
def test_the_vendors_generated_methods_submit_poll_and_list(
    url: str, package: str, client: str
) -> None:
    models = import_module(f"{package}.generated.openapi_client.models")
    api = import_module(f"{package}.generated.openapi_client.api.judges_api")
    opened = getattr(import_module(package), client)(api_key=KEY, base_url=url)
    body = _body(models)
    with opened.get_client_context() as connection:
        judges = api.JudgesApi(connection)
        before = datetime.now(UTC) - timedelta(minutes=1)
        taken = judges.judges_batch_execute_create(JUDGE, body)
        give_up_at = time.monotonic() + 60
        while True:
            shown = judges.judges_batch_executions_retrieve(taken.batch_execution_id)
            if shown.status.value in ("completed", "partial", "failed"):
                break
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
        _check(shown)
        first = judges.judges_batch_executions_list(page_size=1, date_from=before)
        assert first.results[0].batch_execution_id == taken.batch_execution_id
        every = judges.judges_batch_executions_list(judge_id=shown.judge.id, status="completed")
        assert taken.batch_execution_id in [row.batch_execution_id for row in every.results]


@pytest.mark.parametrize(("package", "client"), CLIENTS)
def test_the_vendors_asynchronous_methods_submit_and_poll(
    url: str, package: str, client: str
) -> None:
    models = import_module(f"{package}.generated.openapi_aclient.models")
    api = import_module(f"{package}.generated.openapi_aclient.api.judges_api")
    opened = getattr(import_module(package), client)(api_key=KEY, base_url=url, run_async=True)

    async def drive() -> Any:
        async with opened.get_client_context() as connection:
            judges = api.JudgesApi(connection)
            taken = await judges.judges_batch_execute_create(JUDGE, _body(models))
            async with asyncio.timeout(60):
                while True:
                    shown = await judges.judges_batch_executions_retrieve(taken.batch_execution_id)
                    if shown.status.value in ("completed", "partial", "failed"):
                        return shown
                    await asyncio.sleep(0.1)

    _check(asyncio.run(drive()))


@pytest.mark.parametrize(("package", "client"), CLIENTS)
def test_the_gateways_errors_raise_the_vendors_exceptions(
    servers: dict[str, str], package: str, client: str
) -> None:
    api = import_module(f"{package}.generated.openapi_client.api.judges_api")
    exceptions = import_module(f"{package}.generated.openapi_client.exceptions")
    models = import_module(f"{package}.generated.openapi_client.models")
    kind = getattr(import_module(package), client)
    for key, wrong in [("unknown", "UnauthorizedException"), (OTHER_KEY, "NotFoundException")]:
        with (
            kind(api_key=key, base_url=servers["gateway"]).get_client_context() as connection,
            pytest.raises(getattr(exceptions, wrong)),
        ):
            api.JudgesApi(connection).judges_batch_executions_retrieve(
                "01932f5e-0000-7000-8000-000000000001"
            )
    with kind(api_key=KEY, base_url=servers["gateway"]).get_client_context() as connection:
        body = _body(models)
        body.judge_version_id = "not a version"
        with pytest.raises(exceptions.BadRequestException):
            api.JudgesApi(connection).judges_batch_execute_create(JUDGE, body)


def test_a_plain_client_submits_all_chunks_and_polls_each(url: str) -> None:
    inputs = [
        {"request": f"q{n}", "response": f"{n}", "expected_output": f"{n}"} for n in range(25)
    ]
    items = NotebookClient(url, KEY, judge=JUDGE, chunk=10, pause=0.1).evaluate(inputs)
    assert [item["input"]["request"] for item in items] == [given["request"] for given in inputs]
    assert {item["status"] for item in items} == {"completed"}


def _body(models: Any) -> Any:
    """Two inputs that can be judged, and one that lacks what this judge needs."""
    given: list[dict[str, Any]] = [
        {"request": "2 + 2?", "response": "It is 4.", "expected_output": "4", "contexts": ["sums"]},
        {"request": "The capital of Peru?", "response": "Lima.", "expected_output": "Lima"},
        {"request": "No answer is expected?", "response": "None."},
    ]
    inputs = [models.JudgeBatchExecutionInputRequest(**one) for one in given]
    return models.JudgeBatchExecutionRequest(inputs=inputs, tags=["from-a-client"])


def _check(shown: Any) -> None:
    """What the client read is what was sent and evaluated."""
    assert shown.status.value == "completed"
    assert (shown.total_count, shown.completed_count, shown.failed_count) == (3, 2, 1)
    assert shown.judge.version_id
    first, second, third = sorted(shown.items, key=lambda item: item.index)
    assert first.input.contexts == ["sums"]
    assert second.input.request == "The capital of Peru?"
    names = [result["evaluator_name"] for result in first.evaluator_results]
    assert "Exact match" in names
    assert third.status.value == "failed"
    assert "expected_output" in third.error_message
    assert third.evaluator_results is None
