"""`evalworker judge` as people use it: serve, check, usage, and a process that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.judge_files import is_up, write_judge
from tests.support.model_endpoint import ModelEndpoint, steady_score
from tests.support.processes import ends_well, environment, evalworker, started, write_questions
from tests.support.servers import free_port, wait_until
from worker.judge.calibration import calibrate
from worker.judge.engine import Engine
from worker.judge.judges_file import load_definitions
from worker.judge.ledger import Ledger

INPUTS = [{"request": f"q{n}", "response": f"a{n}"} for n in range(100)]


@pytest.fixture
def model() -> Iterator[ModelEndpoint]:
    with ModelEndpoint().running() as endpoint:
        yield endpoint


def has_paid(model: ModelEndpoint, calls: int) -> bool:
    return model.paid >= calls


def test_init_writes_what_serve_reads_and_overwrites_nothing(tmp_path: Path) -> None:
    env = environment()
    before = evalworker("judge", "serve", env=env, cwd=tmp_path)
    assert before.returncode == 2
    assert "judges.toml: there is no such file; `evalworker judge init`" in before.stderr
    assert evalworker("judge", "init", "new", env=env, cwd=tmp_path).returncode == 0
    again = evalworker("judge", "init", "new", env=env, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (
        1,
        "evalworker: new/judges.toml is there already; nothing was written\n",
    )
    nowhere = evalworker("judge", "init", "/dev/null/x", env=env, cwd=tmp_path)
    assert nowhere.stderr == (
        "evalworker: cannot write /dev/null/x/judges.toml: Not a directory; name another folder\n"
    )
    others = evalworker("judge", "serve", "--host", "0.0.0.0", env=env, cwd=tmp_path / "new")
    assert others.returncode == 2
    assert "[server] key_env" in others.stderr


def test_check_shows_the_deviation_and_fails_above_the_threshold(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    write_judge(tmp_path, model.url, price_input=1.0, price_output=5.0)
    env = environment()

    def check(*options: object) -> Any:
        return evalworker("judge", "check", *options, env=env, cwd=tmp_path)

    model.score = lambda payload: 0.9 if payload["response"] == "good" else 0.3
    good = check("--max-deviation", "0.2", "--state", "check.db")
    assert (good.returncode, good.stderr) == (0, "")
    assert "nice0" in good.stdout
    assert "0.200" in good.stdout
    assert "nice0, example 2: 0.30 instead of 0" in good.stdout
    assert "2 paid calls, cost 0.0004" in good.stdout
    again = check("--max-deviation", "0.19", "--state", "check.db")
    assert again.returncode == 1
    assert "too far off" in again.stdout
    assert "0 paid calls" in again.stdout
    model.answers = ["no score", "no score"] * 2
    (report,) = json.loads(check("--json").stdout)
    assert (report["failed"], report["passed"], report["deviation"]) == (2, False, None)
    assert report["usage"]["calls"] == 4


def test_a_check_does_not_wait_for_what_only_a_person_can_mend(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    write_judge(tmp_path, model.url.replace("/v1", "/v2"))
    done = evalworker("judge", "check", env=environment(), cwd=tmp_path)
    assert done.returncode == 1
    assert re.findall("^.*status 404", done.stdout, re.MULTILINE) == [
        "2 examples: no score: model 'local' responded with status 404"
    ]
    assert "too far off" not in done.stdout


def test_a_check_gives_up_on_an_endpoint_that_is_down(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    definitions = load_definitions(write_judge(tmp_path, url, evaluators=3))
    started_at = time.monotonic()
    with contextlib.closing(Ledger()) as ledger:
        reports = asyncio.run(calibrate(Engine(definitions, ledger, patience=0.3)))
    assert time.monotonic() - started_at < 10
    assert [report.passes(1.0) for report in reports] == [False] * 3
    (reason,) = {outcome.reasons for report in reports for outcome in report.outcomes}
    assert f"cannot be reached at {url}" in (reason or "")


def test_a_killed_service_goes_on_and_pays_again_for_no_more_than_was_under_way(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    concurrency, kills = 8, 3
    write_judge(tmp_path, model.url, evaluators=2, concurrency=concurrency)
    model.seconds = 0.02
    port, env = free_port(), environment()
    url = f"http://127.0.0.1:{port}"

    def serving() -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        return started("judge", "serve", "--port", port, env=env, cwd=tmp_path)

    with serving():
        wait_until(lambda: is_up(url))
        second = evalworker("judge", "serve", "--port", 0, env=env, cwd=tmp_path)
        assert (second.returncode, second.stderr) == (
            1,
            "evalworker: another judge service uses judge.db: name another --state\n",
        )
        path = f"{url}/v1/judges/own/batch-execute/"
        batch = url + httpx.post(path, json={"inputs": INPUTS}).json()["status_url"]
    for _ in range(kills - 1):
        with serving():  # which kills it at the end
            goal = model.paid + 20
            wait_until(partial(has_paid, model, goal))
    with serving():
        wait_until(lambda: is_up(url))
        wait_until(lambda: httpx.get(batch).json()["status"] == "completed")
        items = httpx.get(batch).json()["items"]
    assert 200 <= model.paid <= 200 + kills * concurrency
    for given, item in zip(INPUTS, items, strict=True):
        scores = {result["score"] for result in item["evaluator_results"][:2]}
        assert scores == {steady_score(given)}
    usage = evalworker("judge", "usage", "--json", env=env, cwd=tmp_path)
    (row,) = json.loads(usage.stdout)["usage"]
    assert (row["judge"], row["model"], row["evaluations"]) == ("own", "local", 200)
    assert row["calls"] == 200
    table = evalworker("judge", "usage", env=env, cwd=tmp_path)
    assert "cache hits" in table.stdout


def test_a_spent_budget_is_shown_by_status_and_stops_its_judge_alone(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment(api_url=url, api_key="any", batch_size=1)

    @contextlib.contextmanager
    def serving(daily_budget: float) -> Iterator[None]:
        path = write_judge(tmp_path, model.url, price_input=1000.0, daily_budget=daily_budget)
        path.write_text(path.read_text() + '[judges.plain]\nevaluators = ["Non-empty"]\n')
        with started("judge", "serve", "--port", port, env=env, cwd=tmp_path):
            wait_until(lambda: is_up(url))  # a worker does not start without its API
            yield

    def enqueued(judge: str, count: int) -> str:
        questions = write_questions(tmp_path / "questions.jsonl", count)
        done = evalworker("enqueue", questions, "--judge", judge, env=env, cwd=tmp_path)
        return done.stdout.strip()

    def status(*job: str) -> str:
        return " ".join(evalworker("status", *job, env=env, cwd=tmp_path).stdout.split())

    assert evalworker("migrate", env=env, cwd=tmp_path).returncode == 0
    first = enqueued("own", 1)
    with contextlib.ExitStack() as running:
        with serving(0.05):
            running.enter_context(started("run", env=env, cwd=tmp_path))
            wait_until(lambda: "status completed" in status(first))
            second = enqueued("own", 3)
            wait_until(lambda: "budget_spent" in status())
            shown = status()
            other = enqueued("plain", 2)
            wait_until(lambda: "status completed" in status(other))
            assert model.paid == 1
        with serving(9.0):
            wait_until(lambda: "status completed" in status(second), seconds=60)
    assert "403 budget_spent: the daily budget of model 'local' is spent (0.1 of 0.05)" in shown
    assert "it goes on at 00:00 UTC" in shown
    assert model.paid == 3


FAULTS = {
    "throttled": 0.03,
    "error": 0.03,
    "dropped": 0.03,
    "cut": 0.03,
    "prose": 0.1,
    "out_of_range": 0.03,
    "slow": 0.05,
}


def test_a_file_that_is_no_state_is_named_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    content = other.read_bytes()
    (tmp_path / "text.db").write_text("no database" * 100)
    for name in ("none.db", "no/folder.db", "other.db", "text.db"):
        done = evalworker("judge", "usage", "--state", name, env=environment(), cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"evalworker: {name} is no state file of a judge: ")
    assert other.read_bytes() == content
    assert not (tmp_path / "none.db").exists()


@pytest.mark.long
def test_worker_and_judge_score_every_input_over_a_bad_endpoint_and_five_kills(
    tmp_path: Path,
) -> None:
    count, evaluators, concurrency, kills = 1000, 3, 64, 5
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment(api_url=url, api_key="any", max_item_attempts=8)
    questions = write_questions(tmp_path / "questions.jsonl", count)
    with ModelEndpoint(seed=3, faults=FAULTS).running() as model:
        write_judge(tmp_path, model.url, evaluators=evaluators, concurrency=concurrency)

        def serving() -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
            return started("judge", "serve", "--port", port, env=env, cwd=tmp_path)

        assert evalworker("migrate", env=env, cwd=tmp_path).returncode == 0
        job = evalworker("enqueue", questions, "--judge", "own", env=env, cwd=tmp_path)
        with contextlib.ExitStack() as running:
            for number in range(kills):
                with serving():
                    if number == 0:  # a worker does not start without its API
                        wait_until(lambda: is_up(url))
                        worker = running.enter_context(
                            started("run", "--until-drained", env=env, cwd=tmp_path)
                        )
                    goal = model.paid + count * evaluators // (kills + 1)
                    wait_until(partial(has_paid, model, goal), seconds=300)
            with serving():
                assert ends_well(worker, seconds=600)
        results = evalworker(
            "results",
            job.stdout.strip(),
            "--format",
            "jsonl",
            "--output",
            "r.jsonl",
            env=env,
            cwd=tmp_path,
        )
        assert results.returncode == 0, results.stderr
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(rows) == count
    for row in rows:
        expected = steady_score({"request": row["request"], "response": row["response"]})
        scores = {score["evaluator_name"]: score["score"] for score in row["scores"]}
        assert scores == {**{f"nice{n}": expected for n in range(evaluators)}, "Non-empty": 1.0}
    unreadable = model.counts["cut"] + model.counts["out_of_range"]
    assert model.paid <= count * evaluators + unreadable + kills * concurrency
