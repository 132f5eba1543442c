"""What the README shows is run, in its order, as a reader would."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from scripts.generate_docs import METRICS_PAGE, README, pages
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import evalworker, run_shell, with_the_command
from tests.support.scored_jobs import add_scored_job
from tests.support.servers import free_port, wait_until
from tests.support.webhook_receiver import answer_with, running_receiver
from worker.cli import app
from worker.config import load_settings
from worker.gateway.auth import read_keys
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store.database import Database
from worker.store.migrate import upgrade
from worker.store.tables import batches

if TYPE_CHECKING:
    from tests.support.servers import PostgresServer

GATEWAY_PAGE = README.parent / "docs" / "gateway.md"
RUNBOOK = README.parent / "docs" / "runbook.md"
NOTICES_PAGE = README.parent / "docs" / "notices.md"
ROLES_PAGE = README.parent / "docs" / "roles.md"
NUMBERS_PAGE = README.parent / "docs" / "numbers.md"
OPERATING_PAGE = README.parent / "docs" / "operating.md"
BLOCK = re.compile(
    r"^```(sh|sh gateway|sh resolve|sh parquet|sql|sql postgresql|python|json)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(language: str, page: Path = README) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text("utf-8")) if name == language]


def test_generated_pages_agree_with_the_code() -> None:
    stale = [page.name for page, text in pages().items() if page.read_text("utf-8") != text]
    assert not stale, "run `python -m scripts.generate_docs`"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "questions.jsonl").write_text(
        json.dumps({"request": "q", "response": "a", "expected_output": "a"}) + "\n"
    )
    return tmp_path


def test_the_readmes_python_sql_and_commands_work(folder: Path) -> None:
    newcomer, enqueue, work, read = blocks("sh")
    assert "evalworker demo" in newcomer  # run by .ci/run, in a fresh environment each
    env = with_the_command(folder)

    def shell(script: str) -> str:
        return run_shell(script, folder, env)

    shell("evalworker migrate")
    (python,) = blocks("python")
    subprocess.run([sys.executable, "-c", python], cwd=folder, env=env, check=True)
    insert, queries = blocks("sql")
    engine = sa.create_engine(f"sqlite:///{folder}/evalworker.db")
    run_sql(engine, insert)
    env["JOB"] = shell(enqueue).strip()
    port = str(free_port())
    sandbox, rest = work.replace("8321", port).split("&", 1)
    serving = subprocess.Popen(["bash", "-c", f"exec {sandbox}"], cwd=folder, env=env, stdout=-3)
    try:
        wait_until(
            lambda: (
                subprocess.call(["bash", "-c", f": < /dev/tcp/127.0.0.1/{port}"], stderr=-3) == 0
            )
        )
        shell(rest)
    finally:
        serving.terminate()
        serving.wait()
    run_sql(engine, queries)
    with engine.connect() as connection:
        ended = connection.exec_driver_sql(
            "SELECT status, count(*) FROM eval_jobs GROUP BY 1"
        ).all()
    engine.dispose()
    assert [tuple(row) for row in ended] == [("completed", 3)]
    shown = shell(read)
    assert "Token F1" in shown


def test_the_readmes_sql_runs_on_postgresql_too(postgres_url: str) -> None:
    engine = sa.create_engine(load_settings(database_url=postgres_url).sqlalchemy_url)
    for statements in blocks("sql") + blocks("sql postgresql"):
        run_sql(engine, statements)
    engine.dispose()


def test_the_sql_for_operators_runs(database: Database) -> None:
    queries = blocks("sql", RUNBOOK) + blocks("sql", METRICS_PAGE)
    assert len(queries) >= 6
    for query in queries:
        run_sql(database.engine, query)


def test_notices_arrive_as_their_page_says(folder: Path, postgres_url: str) -> None:
    """The receiver on a loopback port, which has to be allowed; else to the letter."""
    secret, enqueue = blocks("sh", NOTICES_PAGE)
    listen, receive = blocks("python", NOTICES_PAGE)
    (body,) = blocks("json", NOTICES_PAGE)
    sandbox_port, port = free_port(), free_port()
    env = with_the_command(folder) | {
        "EVALWORKER_DATABASE_URL": postgres_url,
        "EVALWORKER_API_URL": f"http://127.0.0.1:{sandbox_port}",
        "EVALWORKER_API_KEY": "sandbox-key",
        "EVALWORKER_LINGER_SECONDS": "0",
        "EVALWORKER_WEBHOOK_ALLOW_PRIVATE": "1",
    }
    (folder / "receive.py").write_text(receive.replace("8400", str(port)))
    # A client that misses the notification asks again after a minute; here it is sooner.
    (folder / "listen.py").write_text(listen.replace("timeout=60", "timeout=2"))
    enqueue = enqueue.replace("https://example.com", f"http://127.0.0.1:{port}").strip()
    script = f"""trap 'kill $(jobs -p); wait' EXIT
{secret}
python receive.py > received 2>receive.log &
evalworker sandbox --port {sandbox_port} 2>sandbox.log &
for port in {port} {sandbox_port}; do
    until (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
done
export JOB=$({enqueue})
python listen.py > heard &
listening=$!
evalworker run --until-drained
wait $listening
"""
    run_shell(script, folder, env)
    received = (folder / "received").read_text()
    assert received == (folder / "heard").read_text()
    assert received.split()[1:] == ["completed"]
    assert json.loads(body).keys() == {"type", "timestamp", "data"}


def test_failed_notices_are_sent_again_as_their_page_says(postgres_url: str) -> None:
    replica = ManualReplica(
        Database(load_settings(database_url=postgres_url).sqlalchemy_url), FakeJudgeAPI()
    )
    with contextlib.closing(replica.database), running_receiver() as receiver:
        receiver.answers = [answer_with(410)]
        replica.enqueue(["q"], callback_url=receiver.url)
        replica.finish()
        replica.step()
        (again,) = blocks("sql postgresql", NOTICES_PAGE)
        run_sql(replica.database.engine, again)
        replica.step()
        assert replica.rows("SELECT state, attempts FROM eval_notices") == [("sent", 1)]
        assert len(receiver.ids) == 2


def test_the_roles_are_made_as_their_page_says(
    folder: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    (command,), (logins,) = blocks("sh", ROLES_PAGE), blocks("sql", ROLES_PAGE)
    env = with_the_command(folder) | {
        "EVALWORKER_DATABASE_URL": postgres_url,
        "EVALWORKER_BROKER_URL": postgres_url,
    }
    subprocess.run(["bash", "-euc", command], cwd=folder, env=env, check=True)
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(logins.encode())
    try:
        as_shop = env | {"EVALWORKER_DATABASE_URL": postgres_url.replace("postgres@", "shop@")}
        enqueued = evalworker("enqueue", "questions.jsonl", "--judge", "j", env=as_shop, cwd=folder)
        as_analyst = env | {
            "EVALWORKER_DATABASE_URL": postgres_url.replace("postgres@", "analyst@")
        }
        job_id = enqueued.stdout.strip()
        status = evalworker("status", job_id, "--json", env=as_analyst)
        results = evalworker("results", job_id, "--format", "jsonl", env=as_analyst)
        assert (json.loads(status.stdout)["total"], results.returncode) == (1, 0)
    finally:
        for login in re.findall(r"CREATE ROLE (\w+)", logins):
            postgres.execute(f"DROP ROLE {login}")


def test_the_gateways_commands_do_what_they_say(folder: Path) -> None:
    """Without TLS and on ports of this test's own; else to the letter."""
    serve, call = blocks("sh", GATEWAY_PAGE)
    sandbox_port, gateway_port = str(free_port()), str(free_port())
    env = with_the_command(folder) | {
        "EVALWORKER_GATEWAY_PORT": gateway_port,
        "EVALWORKER_LINGER_SECONDS": "0",
    }
    # What the first block leaves in the background is ended with its shell.
    script = f"trap 'kill $(jobs -p); wait' EXIT\n{serve}\n{call}"
    script = script.replace("8321", sandbox_port).replace("8322", gateway_port)
    shown_by_commands = run_shell(script, folder, env)
    taken = json.loads((folder / "taken.json").read_text())
    assert shown_by_commands.count(taken["batch_execution_id"]) == 2
    (shown,) = blocks("json", GATEWAY_PAGE)
    assert [key.name for key in read_keys(shown)] == ["team-a", "team-b"]
    (short,) = blocks("sh gateway")
    assert set(short.splitlines()[:1]) <= set(serve.splitlines())


@pytest.mark.timeout(660)  # two dozen commands, on a machine that may be busy
def test_the_operators_commands_do_what_they_say(folder: Path) -> None:
    """To the letter, in their order, on a job that has ended and a batch that is held."""
    env = with_the_command(folder)
    url = env["EVALWORKER_DATABASE_URL"] = f"sqlite:///{folder}/evalworker.db"
    database = Database(url)
    upgrade(database)
    replica = ManualReplica(database, FakeJudgeAPI(), batch_size=2)
    env["JOB"] = str(replica.enqueue(["good", "fail"], judge_id="answer-quality"))
    replica.finish()
    with running_sandbox(SandboxOptions()) as judge:
        env |= {"EVALWORKER_API_URL": judge.url, "EVALWORKER_API_KEY": judge.api_key}
        run_shell("\n".join(blocks("sh", OPERATING_PAGE)), folder, env)
        install, export = blocks("sh parquet", OPERATING_PAGE)[0].splitlines()
        assert install.endswith("'evalworker[parquet]'")  # the tests have it
        run_shell(export, folder, env)
    assert len(pq.read_table(folder / "results.parquet")) == 2
    for line in blocks("sh resolve", OPERATING_PAGE)[0].splitlines():
        replica.enqueue(["held"])
        replica.dispatcher.turn()
        with database.engine.begin() as connection:
            held = sa.update(batches).where(batches.c.state == "planned")
            env["BATCH"] = str(
                connection.scalar(
                    held.values(
                        state="held", due_at=None, submitting_at=batches.c.created_at
                    ).returning(batches.c.id)
                )
            )
        assert "again" in run_shell(line, folder, env)
        replica.pass_time()
        replica.finish()
    (python,) = blocks("python", OPERATING_PAGE)
    subprocess.run([sys.executable, "-c", python], cwd=folder, env=env, check=True)
    database.close()


@pytest.mark.one_database("sqlite")
def test_two_jobs_are_compared_as_their_page_says(folder: Path, database: Database) -> None:
    env = with_the_command(folder)
    env["EVALWORKER_DATABASE_URL"] = database.engine.url.render_as_string(hide_password=False)
    with database.engine.begin() as connection:
        for name in ("BEFORE", "AFTER"):
            env[name] = str(add_scored_job(connection, {"Clarity": [0.1, 0.5, 0.9]}))
    (commands,) = blocks("sh", NUMBERS_PAGE)
    assert "Clarity: The scores of all pairs are the same." in run_shell(commands, folder, env)
    assert "<title>Report of job" in (folder / "report.html").read_text("utf-8")
    run_sql(database.engine, *blocks("sql", NUMBERS_PAGE))


def run_sql(engine: sa.Engine, statements: str) -> None:
    plain = re.sub(r"--.*", "", statements)
    with engine.begin() as connection:
        for statement in plain.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.rstrip(";\n "))


def test_every_command_and_option_is_explained_by_its_help() -> None:
    helped = CliRunner()
    shown = helped.invoke(app, ["--help"]).output
    for command in [
        "demo",
        "migrate",
        "run",
        "gateway",
        "enqueue",
        "status",
        "results",
        "compare",
        "report",
        "retry",
        "cancel",
        "pause",
        "resume",
        "batches",
        "resolve",
        "events",
        "prune",
        "check",
        "sandbox",
    ]:
        assert command in shown
        assert helped.invoke(app, [command, "--help"]).exit_code == 0


def test_links_of_the_documentation_lead_somewhere() -> None:
    root = README.parent
    for page in (README, *Path(root, "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = re.findall(
        r"`(test_\w+)`", Path(README.parent, "docs/guarantees.md").read_text("utf-8")
    )
    written = "".join(path.read_text("utf-8") for path in Path(__file__).parents[1].rglob("*.py"))
    assert named
    for name in named:
        assert f"def {name}(" in written, name
