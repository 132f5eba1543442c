"""The tutorial and the how-to guides are done, in their order, as a reader would."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from scripts.generate_docs import ROOT
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.model_endpoint import ModelEndpoint
from tests.support.processes import environment, run_shell, with_the_command
from tests.support.servers import free_port
from worker.judge.judges_file import JudgeEntry, Model, Server, load_definitions

if TYPE_CHECKING:
    from pathlib import Path

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("postgres")

DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def shell_of(page: Path, folder: Path) -> list[str]:
    """The commands of a page, once the files that it shows are in the folder."""
    commands = []
    for language, title, text in BLOCK.findall(page.read_text("utf-8")):
        if title and language != "sql":
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(text)
        elif language == "sh":
            commands.append(text)
    return commands


def run(script: str, folder: Path, env: dict[str, str]) -> str:
    """What it leaves in the background is ended with it."""
    return run_shell(f"trap 'kill $(jobs -p) || true; wait' EXIT\n{script}", folder, env)


def test_the_tutorial_ends_as_it_says(tmp_path: Path) -> None:
    install, sandbox, *commands = shell_of(DOCS / "tutorial.md", tmp_path)
    assert "pip install" in install  # run by .ci/run, as the README's first command
    port = str(free_port())
    answers = f"until (: < /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do sleep 0.1; done\n"
    script = "\n".join([sandbox, answers, *commands]).replace("8321", port)
    quick = {
        "EVALWORKER_MAX_ITEM_ATTEMPTS": "2",
        "EVALWORKER_LINGER_SECONDS": "0",
        "EVALWORKER_CONSOLE_PORT": str(free_port()),
    }
    shown = run(script, tmp_path, with_the_command(tmp_path) | quick)
    assert "requires expected_output" in shown
    assert "Too few pairs differ to tell." in shown
    (queries,) = blocks("sql", DOCS / "tutorial.md")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/evalworker.db")
    with engine.connect() as connection:
        for query in queries.strip().split("\n"):
            assert len(connection.exec_driver_sql(query).all()) > 2
        saved = connection.exec_driver_sql("SELECT id FROM answers").scalars().all()
        jobs = connection.exec_driver_sql("SELECT status, metadata FROM eval_jobs ORDER BY id")
        assert [tuple(job) for job in jobs] == [
            ("completed", None),
            ("completed", None),
            ("completed", '{"answer":2}'),
        ]
    engine.dispose()
    assert saved == [2]


def blocks(language: str, page: Path) -> list[str]:
    return [text for name, _, text in BLOCK.findall(page.read_text("utf-8")) if name == language]


@pytest.fixture
def replica(database_of_postgres: Database) -> ManualReplica:
    """Works what a guide enqueued; the score of an input is the length of its request."""
    return ManualReplica(database_of_postgres, FakeJudgeAPI())


def place(postgres_url: str) -> dict[str, str]:
    """Where a database is, in the variables that libpq and its kin read."""
    given = sa.make_url(postgres_url)
    return {
        "PGHOST": str(given.query["host"]),
        "PGDATABASE": str(given.database),
        "PGUSER": "postgres",
    }


DJANGO = """
import os, sys
import django
from django.conf import settings
from django.db import transaction

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "HOST": os.environ["PGHOST"],
            "USER": os.environ["PGUSER"],
        }
    },
    USE_TZ=True,
)
django.setup()
from reviews.views import mean_score, save_answer

if len(sys.argv) > 1:
    print(mean_score(sys.argv[1], "length"))
    sys.exit()
try:
    with transaction.atomic():
        save_answer("Rolled back?", "Yes.", "Yes.")
        raise RuntimeError
except RuntimeError:
    pass
first = save_answer("The capital of Peru?", "It is Lima.", "Lima")
assert save_answer("The capital of Peru?", "It is Lima.", "Lima") == first
print(first)
"""


def test_django_enqueues_in_its_own_transaction_and_reads_the_view(
    tmp_path: Path, replica: ManualReplica, postgres_url: str
) -> None:
    shell_of(DOCS / "howto" / "django.md", tmp_path)
    env = environment() | place(postgres_url)
    program = [sys.executable, "-W", "error", "-c", DJANGO]
    job_id = subprocess.check_output(program, cwd=tmp_path, env=env, text=True).strip()
    assert str(replica.one("SELECT id FROM eval_jobs")) == job_id
    replica.finish()
    mean = subprocess.check_output([*program, job_id], cwd=tmp_path, env=env, text=True)
    assert float(mean) == len("The capital of Peru?") / 100


FASTAPI = """
import sys
from fastapi.testclient import TestClient
import shop

client = TestClient(shop.app)
if len(sys.argv) > 1:
    print(client.get(f"/answers/{sys.argv[1]}/scores").text)
    sys.exit()
given = {"question": "The capital of Peru?", "answer": "It is Lima.", "expected": "Lima"}
answer = client.post("/answers", json=given)
assert answer.status_code == 201, answer.text
job_id = answer.json()["job_id"]
assert client.get(f"/answers/{job_id}/scores").status_code == 409
assert client.get("/answers/01932f5e-0000-7000-8000-000000000001/scores").status_code == 404
print(job_id)
"""


def test_fastapi_enqueues_in_the_requests_transaction(tmp_path: Path, database: Database) -> None:
    shell_of(DOCS / "howto" / "fastapi.md", tmp_path)
    replica = ManualReplica(database, FakeJudgeAPI())
    url = database.engine.url.render_as_string(hide_password=False)
    env = environment() | {"DATABASE_URL": url}
    program = [sys.executable, "-c", FASTAPI]
    job_id = subprocess.check_output(program, cwd=tmp_path, env=env, text=True).strip()
    replica.finish()
    shown = subprocess.check_output([*program, job_id], cwd=tmp_path, env=env, text=True)
    assert [score["evaluator_name"] for score in json.loads(shown)] == ["length"]


def test_node_enqueues_and_reads(tmp_path: Path, replica: ManualReplica, postgres_url: str) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no Node.js is installed")
    (script,) = shell_of(DOCS / "howto" / "node.md", tmp_path)
    env = environment() | place(postgres_url)
    run(script.replace("npm install", "npm install --silent --no-audit --no-fund"), tmp_path, env)
    assert replica.one("SELECT request FROM eval_items") == "The capital of Peru?"
    replica.finish()
    *_, scores = run("node shop.mjs", tmp_path, env).splitlines()  # the same key: no second job
    assert json.loads(scores) == [{"evaluator_name": "length", "score": 0.2}]
    assert replica.one("SELECT metadata->>'answer' FROM eval_jobs") == "1"


def test_the_sql_of_the_go_guide_runs_unchanged(replica: ManualReplica, postgres_url: str) -> None:
    """Its driver is not at hand, but PostgreSQL takes the same statements with their parameters."""
    (program,) = blocks("go", DOCS / "howto" / "go.md")
    enqueue, scores = re.findall(r"^const \w+ = `(.*)`$", program, re.MULTILINE)
    inputs = json.dumps([{"request": "The capital of Peru?", "response": "Lima"}])
    with psycopg.connect(postgres_url, cursor_factory=psycopg.RawCursor) as connection:
        given = ["judge", inputs, '["go"]', "answer:1", '{"answer": 1}']
        (job_id,) = connection.execute(enqueue.encode(), given).fetchone() or ("",)
        assert connection.execute(enqueue.encode(), given).fetchone() == (job_id,)
        connection.commit()
        replica.finish()
        found = connection.execute(scores.encode(), [job_id]).fetchall()
    assert found == [("length", 0.2, "The capital of Peru?")]


def test_the_tutorial_of_an_own_judge_ends_with_scores(tmp_path: Path) -> None:
    init, check, serve, work = shell_of(DOCS / "judge.md", tmp_path)
    port = str(free_port())
    answers = f"until (: < /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do sleep 0.1; done\n"
    env = with_the_command(tmp_path) | {"EVALWORKER_LINGER_SECONDS": "0"}
    with ModelEndpoint().running() as model:
        run(init, tmp_path, env)
        file = tmp_path / "judges.toml"
        file.write_text(file.read_text().replace("http://127.0.0.1:11434/v1", model.url))
        checked = check.replace("0.3", "1.0")  # the stand-in scores by chance
        shown = run(
            checked
            + serve.replace("judge.db", f"judge.db --port {port}", 1)
            + answers
            + work.replace("8321", port),
            tmp_path,
            env,
        )
    assert "faithfulness" in shown
    assert "completeness" in shown
    assert "paid call" in shown


def test_the_fields_of_judges_toml_are_those_that_its_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = blocks("toml", DOCS / "judge.md")
    shell_of(DOCS / "criteria.md", tmp_path)
    (tmp_path / "judges.toml").write_text(shown)
    for variable in ("MODEL_KEY", "JUDGE_KEY"):
        monkeypatch.setenv(variable, "secret")
    assert load_definitions(tmp_path / "judges.toml").judges[0].samples == 3
    for table, name in ((Model, "models"), (JudgeEntry, "judges"), (Server, "server")):
        (found,) = re.findall(rf"^\[{name}\b[^\]]*\].*\n((?:\w.*\n)+)", shown, re.MULTILINE)
        assert re.findall(r"^(\w+) =", found, re.MULTILINE) == list(table.model_fields)


def test_the_evaluator_of_the_page_on_criteria_is_checked(tmp_path: Path) -> None:
    (command,) = shell_of(DOCS / "criteria.md", tmp_path)
    file = tmp_path / "judges.toml"
    with ModelEndpoint(
        score=lambda payload: float("tomorrow" in payload["response"])
    ).running() as m:
        file.write_text(file.read_text().replace("http://127.0.0.1:11434/v1", m.url))
        assert "0.000" in run(command, tmp_path, with_the_command(tmp_path))


def test_the_guide_to_files_shows_what_the_commands_say(tmp_path: Path) -> None:
    page = DOCS / "files.md"
    shell_of(page, tmp_path)
    env = with_the_command(tmp_path)
    found = [(language, text) for language, _, text in BLOCK.findall(page.read_text("utf-8"))]
    following = [*found[1:], ("", "")]
    has_jq = shutil.which("jq") is not None
    for (language, command), (next_language, shown) in zip(found, following, strict=True):
        if language != "sh" or (command.startswith("jq") and not has_jq):
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        said = done.stderr + done.stdout
        assert (done.returncode == 1) == ("nothing was enqueued:\n" in said), said
        if next_language == "text":
            assert said == shown
    engine = sa.create_engine(f"sqlite:///{tmp_path}/evalworker.db")
    (query,) = [text for language, text in found if language == "sql"]
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(query.rstrip(";\n")).all()
    engine.dispose()
    assert [row.id for row in rows] == ["F-1", "F-2", *([None] * (3 if has_jq else 1))]
