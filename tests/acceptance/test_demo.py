"""`evalworker demo`, as a newcomer runs it; and again; and killed half-way."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import environment, evalworker, started, wait_until


def query(folder: Path, statement: str, file: str = "evalworker-demo.db") -> list[Any]:
    with closing(sqlite3.connect(f"file:{folder / file}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def finished_batches(folder: Path) -> int:
    try:
        return len(query(folder, "SELECT 1 FROM eval_batches WHERE state = 'finished'"))
    except sqlite3.OperationalError:
        return 0


def test_a_killed_demo_resumes_its_job_and_adds_another(tmp_path: Path) -> None:
    env = environment()
    with started("demo", env=env, cwd=tmp_path) as killed:
        wait_until(lambda: finished_batches(tmp_path) >= 2)
        killed.kill()
        killed.wait()
    again = evalworker("demo", env=env, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "evalworker-demo.db" in again.stdout
    assert "resuming  1 job of" in again.stdout
    assert "194 evaluated, 6 failed" in again.stdout
    assert "Mean scores" in again.stdout
    assert "requires expected_output" in again.stdout
    assert again.stdout.count("SELECT ") == 3
    jobs = query(tmp_path, "SELECT status, completed, failed FROM eval_job_progress")
    assert jobs == [("completed", 194, 6), ("completed", 194, 6)]
    # Two jobs of the same inputs: each good one was evaluated once for each of them, and each bad
    # one three times. A submission that the kill stopped on its way counts among the three.
    times = query(
        tmp_path,
        "SELECT times, count(*) FROM (SELECT count(*) AS times FROM items GROUP BY input)"
        " GROUP BY times",
        "evalworker-demo-judge.db",
    )
    good, *bad = times
    assert good == (2, 194)
    assert sum(inputs for _, inputs in bad) == 6
    assert {count for count, _ in bad} <= {5, 6}


@pytest.mark.parametrize(
    ("judge", "near"), [("maths", "did you mean math?"), ("nothing-like-it", "response-checks")]
)
def test_a_judge_that_the_sandbox_lacks_is_refused_before_anything_is_made(
    judge: str, near: str, tmp_path: Path
) -> None:
    refused = evalworker("demo", "--judge", judge, env=environment(), cwd=tmp_path)
    assert refused.returncode == 2
    assert near in " ".join(refused.stderr.replace("│", "").split())
    assert list(tmp_path.iterdir()) == []


def test_a_demo_whose_inputs_failed_ends_with_status_1(tmp_path: Path) -> None:
    given = tmp_path / "mine.jsonl"
    given.write_text(json.dumps({"request": "2 + 2?", "response": "4"}) + "\n")
    shown = evalworker("demo", "--file", given, "--judge", "math", env=environment(), cwd=tmp_path)
    assert shown.returncode == 1
    assert "0 evaluated, 1 failed" in shown.stdout
    assert "requires expected_output" in shown.stdout
    for file in tmp_path.glob("*.db*"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_the_demo_takes_a_file_of_the_users_own(tmp_path: Path) -> None:
    given = tmp_path / "mine.jsonl"
    given.write_text(
        json.dumps({"request": "2 + 2?", "response": "4", "expected_output": "4"}) + "\n"
    )
    shown = evalworker("demo", "--file", given, "--judge", "math", env=environment(), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "1 evaluated, 0 failed" in shown.stdout
    assert "ROUGE-L" in shown.stdout
