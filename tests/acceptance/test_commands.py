"""Run each command as a process, as people and programs do."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.processes import (
    ctrl_c_enabled,
    environment,
    evalworker,
    started,
    wait_until,
    write_questions,
)
from tests.support.servers import free_port
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox

KEY = "sandbox-key-of-the-tests"


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.1, 0.2), api_key=KEY)) as running:
        yield running


@pytest.fixture
def env(sqlite_url: str, judge: RunningSandbox) -> dict[str, str]:
    return environment(
        database_url=sqlite_url,
        api_url=judge.url,
        api_key=judge.api_key,
        linger_seconds=0,
        poll_min_seconds=0.1,
    )


def test_from_a_file_to_results(env: dict[str, str], tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", 3)
    enqueued = evalworker(
        "enqueue", questions, "--judge", "response-checks", "--tag", "b", "--tag", "a", env=env
    )
    job_id = enqueued.stdout.strip()
    waiting = evalworker("status", job_id, "--json", env=env)
    assert json.loads(waiting.stdout)["waiting"] == 3
    assert json.loads(waiting.stdout)["tags"] == ["a", "b"]
    drained = evalworker("run", "--until-drained", env=env)
    assert drained.returncode == 0
    lines = [json.loads(line) for line in drained.stderr.splitlines()]
    assert "batch.finished" in [line["event"] for line in lines]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    submitted = next(line for line in lines if line["event"] == "batch.submitted")
    assert {"batch_id", "message_id", "remote_batch_id"} <= submitted.keys()
    assert KEY not in drained.stderr

    overview = evalworker("status", env=env).stdout
    assert job_id in overview
    assert "1 completed" in overview
    printed = evalworker("results", job_id, "--format", "jsonl", env=env).stdout
    results = [json.loads(line) for line in printed.splitlines()]
    assert [result["request"] for result in results] == [f"question {n}" for n in range(3)]
    assert {score["evaluator_name"] for score in results[0]["scores"]} == {
        "Non-empty",
        "Request overlap",
    }
    table = evalworker("results", job_id, env=env).stdout
    assert "Non-empty" in table
    assert "question 2" in table
    printed = evalworker("results", job_id, "--format", "csv", env=env).stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert len(rows) == 6
    assert rows[0]["request"] == "question 0"


def test_a_job_that_failed_makes_the_drained_run_fail_too(
    env: dict[str, str], tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", 2)
    job_id = evalworker("enqueue", questions, "--judge", "nobody", env=env).stdout.strip()
    drained = evalworker("run", "--until-drained", env=env)
    assert drained.returncode == 1
    assert "1 job failed" in drained.stderr
    status = evalworker("status", job_id, env=env).stdout
    assert "No Judge matches the given query." in status
    retried = evalworker("retry", job_id, "--json", env=env)
    assert json.loads(retried.stdout) == {"inputs": 2}
    cancelled = evalworker("cancel", job_id, env=env)
    assert cancelled.stdout.strip() == "2 inputs cancelled"


def test_the_same_key_enqueues_once(env: dict[str, str], tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", 2)
    command = ("enqueue", questions, "--judge", "j", "--idempotency-key", "k", "--json")
    first = json.loads(evalworker(*command, env=env).stdout)
    assert (first["inputs"], first["existing"]) == (2, False)
    again = evalworker(*command, env=env)
    assert json.loads(again.stdout) == first | {"existing": True}
    assert "has this idempotency key already, and the same 2 inputs" in again.stderr
    more = write_questions(tmp_path / "more.jsonl", 3)
    other = evalworker("enqueue", more, *command[2:], env=env)
    assert (other.returncode, other.stdout) == (1, "")
    assert "idempotency_key 'k' was used for job" in other.stderr


def test_a_bad_file_is_rejected_whole_naming_each_bad_line(
    env: dict[str, str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"request": "fine"}\n{"request": 5}\nnonsense\n\n["list"]\n{"model": "m"}\n')
    refused = evalworker("enqueue", bad, "--judge", "j", env=env)
    assert refused.returncode == 1
    for message in (
        "line 2: request must be a string, not a number",
        "line 3: is not JSON",
        "line 5: must be an object, not a list",
        "line 6: needs `request`, `response` or `turns`; found: model",
    ):
        assert message in refused.stderr
    assert json.loads(evalworker("status", "--json", env=env).stdout)["jobs"] == {}


def test_ctrl_c_while_a_file_is_read_leaves_nothing(env: dict[str, str], tmp_path: Path) -> None:
    pipe = tmp_path / "inputs.jsonl"
    os.mkfifo(pipe)
    with ctrl_c_enabled(), started("enqueue", pipe, "--judge", "j", env=env) as command:
        with pipe.open("w") as producer:  # opens when the command has opened it
            producer.write('{"request": "q"}\n')
            producer.flush()
            command.send_signal(signal.SIGINT)
            assert command.wait(timeout=30) == 130
        assert command.stderr is not None
        assert "Traceback" not in command.stderr.read()
    assert json.loads(evalworker("status", "--json", env=env).stdout)["jobs"] == {}


def test_fields_that_the_api_does_not_have_are_named(env: dict[str, str], tmp_path: Path) -> None:
    given = tmp_path / "given.csv"
    given.write_text('request,response,model\n"two\nlines",answer,m1\n')
    enqueued = evalworker("enqueue", given, "--judge", "j", env=env)
    assert enqueued.returncode == 0
    assert "no such input fields: model" in enqueued.stderr


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"batch_size": 101, "poll_min_seconds": "often", "broker_url": "kafka://x"},
            ["EVALWORKER_BATCH_SIZE=101", "EVALWORKER_POLL_MIN_SECONDS=often", "kafka"],
        ),
        (
            {"poll_min_seconds": 20, "poll_max_seconds": 10},
            ["EVALWORKER_POLL_MIN_SECONDS (20) must not be more than"],
        ),
        ({"database_url": "mysql://u:s3cret@h/d"}, ["EVALWORKER_DATABASE_URL=mysql://u:***@h/d"]),
    ],
)
def test_all_invalid_settings_are_named_together(
    env: dict[str, str], settings: dict[str, object], messages: list[str]
) -> None:
    refused = evalworker("run", env=env | environment(**settings))
    assert refused.returncode == 2
    for message in messages:
        assert message in refused.stderr
    assert "s3cret" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_unreachable_service_is_reported_on_one_line(env: dict[str, str]) -> None:
    nobody = free_port()
    for settings in (
        {"database_url": f"postgresql://u:s3cret@127.0.0.1:{nobody}/d"},
        {"broker_url": f"redis://:s3cret@127.0.0.1:{nobody}/0"},
        {"api_url": f"http://127.0.0.1:{nobody}"},
    ):
        refused = evalworker("run", env=env | environment(**settings))
        assert refused.returncode == 1
        (line,) = refused.stderr.strip().splitlines()
        assert line.startswith("evalworker: cannot reach the ")
        assert str(nobody) in line
        assert "s3cret" not in line


def test_a_port_that_another_program_has_is_named(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = evalworker("sandbox", "--port", port, env=env)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"evalworker: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "name another address or port\n"
    )


def test_without_the_tables_the_error_names_the_migrate_command(
    env: dict[str, str], tmp_path: Path
) -> None:
    fresh = env | environment(database_url=f"sqlite:///{tmp_path}/fresh.db")
    refused = evalworker("run", env=fresh)
    assert refused.returncode == 1
    assert "run `evalworker migrate`" in refused.stderr
    migrated = evalworker("migrate", "--json", env=fresh)
    assert json.loads(migrated.stdout)["revision"]
    assert evalworker("migrate", "--roles", env=fresh).returncode == 2  # SQLite has none
    assert evalworker("run", "--until-drained", env=fresh).returncode == 0
    other = env | environment(database_url=f"sqlite:///{tmp_path}/other.db", migrate=1)
    assert evalworker("run", "--until-drained", env=other).returncode == 0


def test_check_shows_settings_and_what_is_wrong(env: dict[str, str]) -> None:
    fine = json.loads(evalworker("check", "--json", env=env).stdout)
    assert fine["ok"] is True
    assert fine["checks"] == {"database": "ok", "broker": "ok", "judge API": "ok"}
    assert fine["settings"]["EVALWORKER_BATCH_SIZE"] == {"value": "100", "source": "default"}
    assert fine["settings"]["EVALWORKER_API_KEY"]["source"] == "environment EVALWORKER_API_KEY"
    wrong = evalworker("check", env=env | environment(api_key="wrong-key"))
    assert wrong.returncode == 1
    assert "Invalid API key." in wrong.stdout
    assert "wrong-key" not in wrong.stdout + wrong.stderr


def test_an_unknown_job_exits_with_1_and_wrong_use_with_2(env: dict[str, str]) -> None:
    unknown = evalworker("results", uuid4(), env=env)
    assert unknown.returncode == 1
    assert "there is no job" in unknown.stderr
    assert evalworker("results", "not-an-id", env=env).returncode == 2
    assert evalworker("enqueue", "/nowhere", "--judge", "j", env=env).returncode == 2


def test_the_operations_port_distinguishes_alive_from_ready(env: dict[str, str]) -> None:
    port = free_port()
    with started("run", env=env | environment(ops_port=port)) as worker:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(answers)
        assert httpx.get(f"{url}/livez").json()["ok"] is True
        ready = httpx.get(f"{url}/readyz").json()
        assert ready["checks"] == {
            "database": "ok",
            "migrations": "ok",
            "broker": "ok",
            "dispatcher": "ok",
        }
        assert ready["api_paused"] is False
        assert ready["dispatcher_turned_seconds_ago"] < 5
        assert "evalworker_database_up 1.0" in httpx.get(f"{url}/metrics").text
        assert evalworker("pause", "--reason", "a new prompt", env=env).returncode == 0
        paused = httpx.get(f"{url}/readyz")
        assert paused.status_code == 200  # a restart would not end it
        (pause,) = paused.json()["paused"]
        assert (pause["judge_id"], pause["reason"]) == (None, "a new prompt")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0


def test_the_sandbox_command_serves_until_it_is_stopped(env: dict[str, str]) -> None:
    with started("sandbox", "--port", 0, "--latency", 0, 0, env=env) as sandbox:
        assert sandbox.stdout is not None
        url = sandbox.stdout.readline().strip().partition("=")[2]
        key = sandbox.stdout.readline().strip().partition("=")[2]
        headers = {"Authorization": f"Api-Key {key}"}
        assert httpx.get(f"{url}/v1/judges/batch-executions/", headers=headers).status_code == 200
        sandbox.send_signal(signal.SIGTERM)
        sandbox.wait(timeout=10)
