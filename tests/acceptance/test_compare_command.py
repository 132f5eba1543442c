"""`evalworker compare` as people and programs run it."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.processes import environment, evalworker
from tests.support.scored_jobs import add_scored_job
from worker.admin import Admin
from worker.errors import NotPossible

EVIL = "\x1b[2Jno\u202ewhere\nA  forged  line"


@pytest.fixture
def jobs(sqlite_url: str) -> tuple[UUID, UUID]:
    with Admin(sqlite_url) as admin, admin.database.engine.begin() as connection:
        first = add_scored_job(
            connection,
            {"Accuracy": [0.5] * 20, EVIL: [0.5] * 20},
            requests=[EVIL] + [f"question {n}" for n in range(1, 20)],
            tags=[EVIL],
        )
        second = add_scored_job(connection, {"Accuracy": [0.4] + [0.7] * 19, EVIL: [0.1] * 20})
        return first, second


def test_a_person_reads_which_job_is_better_and_a_program_the_same_numbers(
    sqlite_url: str, jobs: tuple[UUID, UUID]
) -> None:
    env = environment(database_url=sqlite_url)
    shown = evalworker("compare", *map(str, jobs), env=env)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Accuracy: B is better: +0.185 on average, 19 of 20 pairs higher." in shown.stdout
    assert "note: Two different requests are in 1 of 20 pairs." in shown.stdout
    assert not {"\x1b", "\u202e"} & set(shown.stdout)
    assert "\nA  forged" not in shown.stdout
    found = json.loads(evalworker("compare", *map(str, jobs), "--json", env=env).stdout)
    with Admin(sqlite_url) as admin:
        assert json.loads(json.dumps(admin.compare(*jobs), default=str)) == found
    evil, accuracy = found["evaluators"]
    assert (accuracy["verdict"], accuracy["better"], accuracy["worse"]) == ("better", 19, 1)
    assert accuracy["losses"][0]["second_index"] == 0
    assert (evil["verdict"], evil["without_interval"]) == (
        "worse",
        "the difference is the same everywhere",
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--by", "output"], 2, "index, request or metadata:KEY"),
        (["--by", "metadata:id"], 1, "; 40 inputs have none"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(
    sqlite_url: str, jobs: tuple[UUID, UUID], options: list[str], status: int, message: str
) -> None:
    env = environment(database_url=sqlite_url)
    refused = evalworker("compare", *map(str, jobs), *options, env=env)
    assert (refused.returncode, refused.stdout) == (status, "")
    assert message in " ".join(refused.stderr.split())


def test_an_invalid_pairing_from_python_is_refused_as_well(
    sqlite_url: str, jobs: tuple[UUID, UUID]
) -> None:
    with Admin(sqlite_url) as admin, pytest.raises(NotPossible, match="metadata:KEY"):
        admin.compare(*jobs, by="output")


def test_a_report_is_a_private_file_that_appears_when_it_is_complete(
    sqlite_url: str, jobs: tuple[UUID, UUID], tmp_path: Path
) -> None:
    env = environment(database_url=sqlite_url)
    folder = tmp_path / "reports"
    first, second = map(str, jobs)
    written = ("report", second, "--against", first, "--output", folder / "job.html")
    refused = evalworker(*written, env=env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"evalworker: cannot write {folder}/job.html: there is no")
    folder.mkdir()
    other_format = evalworker("report", second, "--output", folder / "job.pdf", env=env)
    assert other_format.returncode == 2
    assert "a report is HTML" in other_format.stderr
    assert evalworker(*written, env=env).returncode == 0
    assert [path.name for path in folder.iterdir()] == ["job.html"]
    assert (folder / "job.html").stat().st_mode & 0o777 == 0o600
    assert "B is better" in (folder / "job.html").read_text("utf-8")
