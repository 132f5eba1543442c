"""The benchmarks' fake of the judge API keeps to its rules, because a lenient one would flatter."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.fake_judge import EXECUTIONS, FakeJudge, Options

BODY = b'{"inputs":[{"request":"a"},{"request":"b"}]}'


def submit(remote: FakeJudge, judge: str = "j") -> tuple[int, dict[str, Any]]:
    status, body = remote.respond(b"POST", f"/v1/judges/{judge}/batch-execute/", BODY)
    return status, json.loads(body)


def get(remote: FakeJudge, target: str) -> tuple[int, dict[str, Any]]:
    status, body = remote.respond(b"GET", target, b"")
    return status, json.loads(body)


def test_the_list_has_every_batch_once_newest_first() -> None:
    remote = FakeJudge(Options())
    ids = [submit(remote)[1]["batch_execution_id"] for _ in range(250)]
    listed, cursor = [], ""
    while True:
        _, page = get(remote, f"{EXECUTIONS}?judge_id=j{cursor}")
        listed += [row["batch_execution_id"] for row in page["results"]]
        submit(remote)  # a new batch does not shift the pages
        if page["next"] is None:
            break
        cursor = "&" + page["next"].partition("?")[2]
    assert listed == ids[::-1]


def test_the_list_applies_its_filters() -> None:
    remote = FakeJudge(Options(latency=(60, 60)))
    ours, theirs = (submit(remote, judge)[1]["batch_execution_id"] for judge in ("j", "k"))
    remote.batches[theirs].ends_at = 0

    def listed(query: str) -> list[str]:
        rows = get(remote, f"{EXECUTIONS}?{query}")[1]["results"]
        return [row["batch_execution_id"] for row in rows]

    assert listed("judge_id=j") == listed("status=processing") == [ours]
    assert listed("status=completed") == [theirs]
    assert listed("date_from=2100-01-01T00:00:00%2B00:00") == []
    assert listed("date_from=2020-01-01T00:00:00%2B00:00") == [theirs, ours]
    assert listed("date_to=2020-01-01T00:00:00%2B00:00") == []
    moment = get(remote, f"{EXECUTIONS}{ours}/")[1]["created_at"].replace("+", "%2B")
    assert listed(f"date_from={moment}&date_to={moment}") == [ours]


def test_a_batch_has_no_items_before_its_end() -> None:
    remote = FakeJudge(Options(latency=(60, 60)))
    batch_id = submit(remote)[1]["batch_execution_id"]
    shown = get(remote, f"{EXECUTIONS}{batch_id}/")[1]
    assert (shown["status"], shown["completed_at"], shown["items"]) == ("processing", None, [])
    remote.batches[batch_id].ends_at = 0
    shown = get(remote, f"{EXECUTIONS}{batch_id}/")[1]
    assert shown["status"] == "completed"
    assert shown["completed_at"] > shown["created_at"]
    assert len(shown["items"]) == shown["total_count"] == 2


def test_a_batch_above_the_limit_is_refused_until_one_ends() -> None:
    remote = FakeJudge(Options(latency=(60, 60), max_running=2))
    assert [submit(remote)[0] for _ in range(3)] == [202, 202, 429]
    remote.running[0] = 0.0
    assert submit(remote)[0] == 202
    assert remote.observations().throttled == 1


def test_requests_above_their_rate_are_refused() -> None:
    remote = FakeJudge(Options(max_requests_per_second=5))
    assert [get(remote, EXECUTIONS)[0] for _ in range(6)] == [200] * 5 + [429]


def test_without_a_list_nothing_is_listed() -> None:
    assert get(FakeJudge(Options(has_list=False)), EXECUTIONS)[0] == 404


def test_a_batch_shows_what_was_sent_if_it_is_told_to() -> None:
    remote = FakeJudge(Options(shows_inputs=True))
    batch_id = submit(remote)[1]["batch_execution_id"]
    _, batch = get(remote, f"{EXECUTIONS}{batch_id}/")
    assert [item["input"] for item in batch["items"]] == json.loads(BODY)["inputs"]
