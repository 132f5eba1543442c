"""The live status of `status --watch`, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import ctrl_c_enabled, environment, evalworker, started
from tests.support.servers import wait_until
from tests.support.shared_servers import command_client
from worker.admin import Admin
from worker.cli.live_status import follow
from worker.store import pauses

if TYPE_CHECKING:
    from worker.store.database import Database

pytestmark = pytest.mark.one_database("postgres")


@pytest.fixture
def env(database_url: str) -> dict[str, str]:
    return environment(database_url=database_url)


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=2, max_in_flight=2)


def test_on_a_terminal_the_status_is_redrawn_until_ctrl_c(
    env: dict[str, str], replica: ManualReplica
) -> None:
    replica.remote.done = False
    job_id = replica.enqueue([f"q{n}" for n in range(6)])
    replica.step()
    replica.database.run(lambda tx: pauses.pause(tx, "other", "its prompt"))
    ours, its = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.extend(chunk)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    command = [str(command_client()), "status", "--watch", "--every", "0.1"]
    with ctrl_c_enabled():
        process = subprocess.Popen(command, env=env | {"TERM": "xterm"}, stdin=its, stdout=its)
    os.close(its)
    reader.start()
    try:
        wait_until(lambda: shown.count(b"Ctrl-C ends") > 2, seconds=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)
    text = shown.decode()
    for part in (str(job_id), "0/6", "2 submitted", "6 inputs left", "paused: judge other"):
        assert part in text
    assert "Traceback" not in text


def test_in_a_pipe_each_refresh_is_a_line_until_no_work_is_left(
    env: dict[str, str], replica: ManualReplica
) -> None:
    replica.enqueue(["a", "b", "c"])
    with started("status", "--watch", "--until-drained", "--every", "0.1", env=env) as process:
        assert process.stdout is not None
        assert "3 inputs left" in process.stdout.readline()
        replica.finish()
        *_, last = process.stdout.readlines()
        assert process.wait(30) == 0
    assert "jobs: 1 completed" in last
    assert "0 inputs left" in last
    printed = evalworker("status", "--until-drained", "--json", env=env)
    document = json.loads(printed.stdout)
    assert document["jobs"] == {"completed": 1}
    assert document["judges"][0]["judge_id"] == "judge"


def test_a_job_is_followed_to_its_end_and_decides_the_exit_status(
    env: dict[str, str], replica: ManualReplica
) -> None:
    good = replica.enqueue(["a"])
    bad = replica.enqueue(["fail"])
    with (
        started("status", good, "--watch", "--every", "0.1", env=env) as first,
        started("status", bad, "--watch", "--every", "0.1", env=env) as second,
    ):
        assert first.stdout is not None
        assert "pending, 0 failed" in first.stdout.readline()
        replica.finish()
        assert first.wait(60) == 0
        assert second.wait(60) == 1
        assert "completed" in first.stdout.read()


def test_the_live_status_survives_a_restart_of_the_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, away = Admin.status, ["it is being restarted"]

    def restarted(admin: Admin) -> dict[str, Any]:
        if away:
            raise OperationalError("SELECT", None, Exception(away.pop()))
        return status(admin)

    monkeypatch.setattr(Admin, "status", restarted)
    with Admin(database_url) as admin:
        follow(admin, every=0.0, until_drained=True, as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert "the database does not answer: it is being restarted" in first
    assert "0 inputs left" in second
