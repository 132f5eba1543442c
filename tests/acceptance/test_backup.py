"""Backup, restore and rollback, as their page says."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from scripts.generate_docs import ROOT
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import evalworker, run_shell, with_the_command
from tests.support.servers import postgres_programs
from worker.errors import NotPossible, SchemaMismatch
from worker.store.migrate import migrate_to, upgrade
from worker.store.schema_version import REVISION, current_revision

if TYPE_CHECKING:
    from pathlib import Path

    from worker.store.database import Database

PAGE = ROOT / "docs" / "backup.md"
BLOCK = re.compile(r"^ *```sh(?: (\w+))?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    found = BLOCK.findall(PAGE.read_text("utf-8"))
    return [textwrap.dedent(text) for name, text in found if name == kind]


def test_a_restored_database_submits_nothing_before_it_is_resumed(
    database: Database, tmp_path: Path
) -> None:
    kind = "postgresql" if database.on_postgresql else "sqlite"
    env = with_the_command(tmp_path)
    env["PATH"] = f"{postgres_programs()}{os.pathsep}{env['PATH']}"
    url = database.engine.url.set(drivername=kind)
    env["EVALWORKER_DATABASE_URL"] = url.render_as_string(hide_password=False)
    replica = ManualReplica(database, FakeJudgeAPI(), batch_size=1, max_in_flight=1)
    replica.remote.done = False
    replica.enqueue(["at the judge", "waits", "waits, too"])
    replica.step()
    back_up, restore = blocks(kind)
    run_shell(back_up, tmp_path, env)
    replica.remote.done = True
    replica.finish()
    assert replica.remote.posts() == 3
    database.engine.dispose()
    pause, look, resume = blocks("")
    run_shell(restore, tmp_path, env)
    evalworker("pause", "--reason", "restored from a backup", env=env)
    # `check` fails here: these tests have no judge API that it could reach.
    assert "evalworker check" in pause
    run_shell(pause.replace("evalworker check", ""), tmp_path, env)
    for _ in range(3):
        replica.pass_time()
        replica.step()
    assert replica.remote.posts() == 3
    assert replica.one("SELECT count(*) FROM eval_scores") == 1
    assert "paused: everything" in run_shell(look, tmp_path, env)
    run_shell(resume, tmp_path, env)
    replica.finish()
    assert replica.remote.posts() == 5  # what had been evaluated since is evaluated again
    assert replica.one("SELECT count(*) FROM eval_scores") == 3


def test_a_newer_version_goes_back_to_the_schema_of_an_earlier_one(
    database: Database, tmp_path: Path
) -> None:
    env = with_the_command(tmp_path)
    url = database.engine.url
    shown = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)
    env["EVALWORKER_DATABASE_URL"] = shown
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.enqueue(["a"])
    replica.finish()
    (rollback,) = blocks("rollback")
    assert "schema 0005" in run_shell(rollback, tmp_path, env)
    assert current_revision(database) == "0005"
    assert replica.one("SELECT count(*) FROM eval_scores") == 1
    assert "older than this worker" in evalworker("status", env=env).stderr
    with pytest.raises(NotPossible, match=f"0001 to {REVISION}"):
        migrate_to(database, "base")
    assert upgrade(database) == REVISION
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="newer than this worker"):
        migrate_to(database, "0005")
