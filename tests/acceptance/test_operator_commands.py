"""Operators' commands and their output, beside a worker, on both databases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import environment, evalworker
from worker.domain.lifecycle import BatchState
from worker.store.sql_functions import later
from worker.store.tables import batches

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("postgres")


@pytest.fixture
def env(database_url: str) -> dict[str, str]:
    return environment(database_url=database_url)


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=2, max_in_flight=3)


def output_of(env: dict[str, str], *command: object) -> str:
    """Return the output of a command that succeeds, and logs nothing."""
    done = evalworker(*command, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def json_of(env: dict[str, str], *command: object) -> Any:
    return json.loads(output_of(env, *command, "--json"))


def refused(env: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    done = evalworker(*command, env=env)
    assert done.returncode != 0
    assert done.stdout == ""
    return done


def test_a_judge_is_paused_and_resumed_and_every_overview_shows_it(
    env: dict[str, str], replica: ManualReplica
) -> None:
    replica.enqueue(["a", "b", "c"])
    printed = output_of(env, "pause", "--judge", "judge", "--reason", "a [new] prompt")
    assert printed == "judge judge is paused: a [new] prompt; 3 inputs waiting\n"
    mistyped = output_of(env, "pause", "--judge", "jugde")
    assert mistyped.endswith("; no open job has this judge\n")
    output_of(env, "resume", "--judge", "jugde")
    replica.step()
    assert replica.remote.posts() == 0
    assert "evalworker resume --judge judge" in output_of(env, "status")
    (shown,) = json_of(env, "status")["paused"]
    assert (shown["judge_id"], shown["reason"]) == ("judge", "a [new] prompt")
    assert json_of(env, "pause") == {"paused": None, "newly": True, "waiting": 3}
    checked = json.loads(evalworker("check", "--json", env=env).stdout)
    assert [pause["judge_id"] for pause in checked["paused"]] == [None, "judge"]
    assert checked["schema"]
    wrong = refused(env, "resume", "--judge", "other")
    assert wrong.returncode == 1
    assert "there is no pause of judge other" in wrong.stderr
    assert "`evalworker resume` or `evalworker resume --judge judge`" in wrong.stderr
    assert "still paused: judge judge: a [new] prompt" in output_of(env, "resume")
    assert output_of(env, "resume", "--judge", "judge") == "judge judge is resumed\n"
    replica.finish()
    assert replica.remote.posts() == 2


def test_a_second_pause_keeps_the_reason_unless_it_gives_one(
    env: dict[str, str], replica: ManualReplica
) -> None:
    output_of(env, "pause", "--reason", "maintenance")
    again = output_of(env, "pause")
    assert again == "everything was already paused: maintenance; 0 inputs waiting\n"
    other = output_of(env, "pause", "--reason", "a migration")
    assert other == (
        "everything was already paused; the reason is now: a migration; 0 inputs waiting\n"
    )


def test_the_first_characters_of_an_id_are_enough(
    env: dict[str, str], replica: ManualReplica
) -> None:
    first, second = (replica.enqueue(["a"], judge_id="j") for _ in range(2))
    replica.step()
    length = next(n for n in range(36) if str(first)[n] != str(second)[n])
    common, own = str(first)[:length], str(first)[: length + 1]
    for prefix in (own, own.upper(), own.replace("-", ""), first):
        assert json_of(env, "status", prefix)["job_id"] == str(first)
    assert str(first) in output_of(env, "results", own, "--format", "csv")
    assert "batch.planned" in output_of(env, "events", own)
    (batch,) = json_of(env, "batches", "--job", own)
    assert "no batch on hold" in refused(env, "resolve", batch["id"][:34]).stderr
    assert json_of(env, "cancel", own)["inputs"] == 1
    ambiguous = refused(env, "retry", common)
    assert ambiguous.returncode == 1
    assert str(first) in ambiguous.stderr
    assert str(second) in ambiguous.stderr
    assert "no job has an id that begins with ffff" in refused(env, "status", "ffff").stderr
    for wrong in ("abc", "not-an-id", f"{first}0"):
        assert refused(env, "status", wrong).returncode == 2


def test_check_and_run_name_variables_that_are_no_settings(
    env: dict[str, str], replica: ManualReplica
) -> None:
    mistyped = env | environment(
        max_inflight=3, api_url="http://127.0.0.1:9", api_key="key-of-test"
    )
    checked = evalworker("check", env=mistyped)
    hint = "EVALWORKER_MAX_INFLIGHT is no setting, and has no effect; did you mean"
    assert f"{hint} EVALWORKER_MAX_IN_FLIGHT?" in checked.stdout
    found = json.loads(evalworker("check", "--json", env=mistyped).stdout)["unknown_variables"]
    assert found == {"EVALWORKER_MAX_INFLIGHT": "EVALWORKER_MAX_IN_FLIGHT"}
    line = json.loads(evalworker("run", env=mistyped).stderr.splitlines()[0])
    assert (line["event"], line["level"]) == ("settings.unknown_variable", "warning")


@pytest.mark.parametrize(
    "command",
    ["status", "results abcd", "events abcd", "batches", "pause", "prune --older-than 1d"],
)
def test_reading_makes_no_database_and_names_the_file_it_looked_for(
    command: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/evalworker.db"
    done = refused(environment(database_url=url), *command.split())
    assert done.returncode == 1
    assert done.stderr == (
        f"evalworker: there is no database file {tmp_path}/evalworker.db (see "
        "EVALWORKER_DATABASE_URL): run `evalworker migrate` to make it\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_drained_run_ends_when_only_paused_work_is_left(
    env: dict[str, str], replica: ManualReplica
) -> None:
    replica.enqueue(["a"])
    output_of(env, "pause")
    with_api = env | environment(api_url="http://127.0.0.1:9", api_key="k")
    ended = evalworker(
        "run",
        "--until-drained",
        "--gateway",
        env=with_api
        | {
            "EVALWORKER_GATEWAY_KEYS": '{"t": {"key": "a-secret-of-the-team"}}',
            "EVALWORKER_GATEWAY_PORT": "0",
        },
    )
    assert ended.returncode == 1
    assert "the work that is left is paused" in ended.stderr


def test_jobs_are_retried_and_cancelled(env: dict[str, str], replica: ManualReplica) -> None:
    job_id = replica.enqueue(["good", "fail"])
    replica.finish()
    assert json_of(env, "retry", job_id) == {"inputs": 1}
    assert output_of(env, "retry", job_id, "--item", 0) == "1 input to be evaluated again\n"
    replica.finish()
    assert output_of(env, "retry", job_id, "--all") == "2 inputs to be evaluated again\n"
    replica.step()
    printed = output_of(env, "cancel", job_id)
    assert "2 inputs cancelled\n2 of them were already sent" in printed
    assert output_of(env, "cancel", job_id) == "nothing is left to cancel: the job is cancelled\n"
    assert output_of(env, "retry", job_id) == f"no input of job {job_id} has failed\n"
    missing = refused(env, "retry", job_id, "--item", 9)
    assert (missing.returncode, missing.stderr) == (1, f"evalworker: job {job_id} has no input 9\n")
    assert refused(env, "retry", job_id, "--item", 0, "--all").returncode == 2
    assert refused(env, "cancel", uuid4()).returncode == 1


def test_a_batch_that_fails_as_a_whole_is_split_when_it_is_submitted_again(
    env: dict[str, str], replica: ManualReplica, database: Database
) -> None:
    replica.enqueue(["a", "b"])
    replica.remote.next_answer(lambda _: httpx.Response(500, text="out of tokens"))
    replica.step()
    (batch,) = json_of(env, "batches")
    with database.engine.begin() as connection:
        earlier = later(sa.literal(-60.0))
        held = {"state": BatchState.HELD, "due_at": None, "server_error_at": earlier}
        connection.execute(batches.update().values(held))
    assert "is split in two" in output_of(env, "resolve", batch["id"], "--resubmit")
    replica.finish()
    assert replica.states() == ["refused", "finished", "finished"]


def test_batches_are_listed_and_one_on_hold_is_released(
    env: dict[str, str], replica: ManualReplica, database: Database
) -> None:
    job_id = replica.enqueue(["a"])
    assert output_of(env, "batches", "--state", "held") == "no batch is held\n"
    replica.remote.next_answer(replica.remote.accept_and_lose)
    replica.step()
    (batch,) = json_of(env, "batches", "--state", "unknown")
    assert batch["judge_id"] == "judge"
    assert "connection reset" in batch["error"]
    with database.engine.begin() as connection:
        connection.execute(batches.update().values(state=BatchState.HELD, due_at=None))
    listed = output_of(env, "batches")
    assert batch["id"] in listed
    assert f"evalworker resolve {batch['id']}" in listed
    assert json_of(env, "resolve", batch["id"]) == {"state": "unknown"}
    assert "no batch on hold has the id" in refused(env, "resolve", batch["id"]).stderr
    replica.finish()
    assert output_of(env, "batches") == "no batch is live or on hold\n"
    assert "finished" in output_of(env, "batches", "--job", job_id)
    assert refused(env, "batches", "--state", "lots").returncode == 2
    assert refused(env, "batches", "--job", uuid4()).returncode == 1


def test_the_history_of_a_job_is_a_line_for_each_event(
    env: dict[str, str], replica: ManualReplica
) -> None:
    job_id = replica.enqueue(["good", "fail"])
    replica.finish()
    lines = output_of(env, "events", job_id).splitlines()
    printed = [json.loads(line) for line in output_of(env, "events", job_id, "--json").splitlines()]
    assert len(lines) == len(printed)
    assert [event["event"] for event in printed][:3] == [
        "batch.planned",
        "batch.submitting",
        "batch.submitted",
    ]
    assert "job.completed" in lines[-1]
    assert "error=cannot judge fail" in next(line for line in lines if "item.failed" in line)
    assert refused(env, "events", uuid4()).returncode == 1


def test_the_history_names_who_gave_each_command(
    env: dict[str, str], replica: ManualReplica, database: Database
) -> None:
    alice = {**env, "LOGNAME": "alice"}
    job_id = replica.enqueue(["fail"])
    replica.finish()
    for command in (
        ["retry", job_id],
        ["cancel", job_id],
        ["pause", "--judge", "judge"],
        ["resume", "--judge", "judge"],
    ):
        output_of(alice, *command)
    replica.enqueue(["b"])
    replica.step()
    with database.engine.begin() as connection:
        held = batches.update().where(batches.c.state == BatchState.SUBMITTED)
        connection.execute(held.values(state=BatchState.HELD, due_at=None))
    (batch,) = json_of(env, "batches", "--state", "held")
    output_of({**env, "LOGNAME": "b\udcffb"}, "resolve", batch["id"])
    column = "detail" if database.on_postgresql else "json(detail)"
    rows = replica.rows(f"SELECT event, {column} FROM eval_events WHERE event <> 'x' ORDER BY id")
    actors = {str(event): str(detail) for event, detail in rows if "actor" in str(detail)}
    assert set(actors) == {
        "job.retry",
        "job.cancelled",
        "gate.closed",
        "gate.opened",
        "batch.resolved",
    }
    assert all("cli:alice" in actors[event] for event in set(actors) - {"batch.resolved"})
    assert "cli:b?b" in actors["batch.resolved"]  # what no database stores is replaced
    assert "actor=cli:alice" in output_of(env, "events", job_id)


def test_jobs_that_ended_long_ago_are_pruned(env: dict[str, str], replica: ManualReplica) -> None:
    replica.enqueue(["good", "fail"])
    replica.finish()
    assert output_of(env, "prune", "--older-than", "90d") == (
        "0 jobs, 0 inputs, 0 batches, 0 events deleted\n"
    )
    with replica.database.engine.begin() as connection:
        for table in ("jobs", "batches"):
            connection.exec_driver_sql(
                f"UPDATE eval_{table} SET finished_at = '2020-01-01 00:00:00.000000+00:00'"
            )
    dry = output_of(env, "prune", "--older-than", "90d", "--dry-run")
    assert dry == "1 job, 2 inputs would be deleted\n"
    texts = output_of(env, "prune", "--older-than", "90d", "--texts-only")
    assert texts == "the texts of 2 inputs of 1 job deleted\n"
    pruned = json_of(env, "prune", "--older-than", "90d")
    assert (pruned["jobs"], pruned["inputs"], pruned["batches"]) == (1, 2, 3)
    assert replica.rows("SELECT 1 FROM eval_items") == []
    for age in ("90", "soon", "-1d"):
        assert "is not an age" in refused(env, "prune", "--older-than", age).stderr
