"""A real model judges through the worker: that all fits together, not that it judges well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.judge_files import is_up
from tests.support.processes import environment, evalworker, started
from tests.support.servers import free_port, wait_until
from tests.support.small_model import small_model

EVALUATOR = """\
name: right
objective:
  intent: Is the response the right answer?
scoring_criteria: |
  Is {{ response }} the right answer to {{ request }}?

  - 1.0: It is right.
  - 0.5: Parts of it are right.
  - 0.0: It is wrong.
"""
JUDGES = """\
[models.small]
url = "{url}"
model = "SmolLM2-135M"
concurrency = 1
max_output_tokens = 256

[judges.answers]
evaluators = ["right.yaml"]
"""
ANSWERS = {
    "What is the capital of Peru?": ("Lima.", "Oslo."),
    "How many days has a week?": ("Seven.", "Ninety."),
    "What is 2 + 2?": ("4.", "17."),
    "Which planet do we live on?": ("The Earth.", "Neptune."),
    "What colour is snow?": ("White.", "Green."),
}
INPUTS = [
    {"request": question, "response": answer, "metadata": {"right": answer is answers[0]}}
    for question, answers in ANSWERS.items()
    for answer in answers
]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_real_model_gives_every_input_a_score(tmp_path: Path) -> None:
    """`pytest -rP` shows its scores."""
    (tmp_path / "model").mkdir()
    (tmp_path / "right.yaml").write_text(EVALUATOR)
    (tmp_path / "inputs.jsonl").write_text("\n".join(map(json.dumps, INPUTS)))
    port = free_port()
    judge_url = f"http://127.0.0.1:{port}"
    env = environment(api_url=judge_url, api_key="any")

    def command(*arguments: object) -> str:
        done = evalworker(*arguments, env=env, cwd=tmp_path, seconds=1200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with small_model(tmp_path / "model") as url:
        (tmp_path / "judges.toml").write_text(JUDGES.format(url=url))
        command("migrate")
        job = command("enqueue", "inputs.jsonl", "--judge", "answers").strip()
        with started("judge", "serve", "--port", port, env=env, cwd=tmp_path):
            wait_until(lambda: is_up(judge_url))
            command("run", "--until-drained")
    command("results", job, "--format", "jsonl", "--output", "results.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["completed"] * len(INPUTS)
    scores = [_score(row) for row in rows]
    assert all(0 <= score <= 1 for score in scores)
    (usage,) = json.loads(command("judge", "usage", "--json"))["usage"]
    assert (usage["evaluations"], usage["failures"]) == (len(INPUTS), 0)
    assert usage["output_tokens"] > 0
    print("right answers", scores[::2], "wrong answers", scores[1::2], usage)  # noqa: T201


def _score(row: dict[str, Any]) -> float:
    (result,) = row["scores"]
    assert result["justification"]
    return float(result["score"])
