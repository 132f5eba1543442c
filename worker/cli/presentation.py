"""Make the phrases and table rows that several commands print."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from worker.cli.tables import Column
from worker.domain.phrases import age, quantity, timestamp
from worker.domain.terminal_text import escape_controls

JOB_COLUMNS = (
    Column("job"),
    Column("judge", shrinkable=True),
    Column("status"),
    Column("completed", numeric=True),
    Column("failed", numeric=True),
    Column("waiting", numeric=True, optional=True),
    Column("in flight", numeric=True, optional=True),
    Column("age", numeric=True, optional=True),
)


def job_row(job: dict[str, Any], now: datetime) -> list[object]:
    """Return the cells of `JOB_COLUMNS`."""
    return [
        *(job[name] for name in ("job_id", "judge_id", "status")),
        f"{job['completed']}/{job['total']}",
        *(job[name] for name in ("failed", "waiting", "in_flight")),
        age(job["created_at"], now),
    ]


def scope_name(judge_id: str | None) -> str:
    """Name what a pause stops: one judge, or everything."""
    return "everything" if judge_id is None else f"judge {judge_id}"


def unknown_name(name: str, known: Collection[str]) -> str:
    """Return what to say to a name that is none of these."""
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name!r} is none of {', '.join(sorted(known))}{hint}"


def obstacles(status: dict[str, Any]) -> list[str]:
    """Return a line for each pause, gate, replica and batch that keeps work from going on."""
    lines = []
    for pause in status["paused"]:
        judge_id = pause["judge_id"]
        option = "" if judge_id is None else f" --judge {judge_id}"
        lines.append(
            f"paused: {scope_name(judge_id)} since {timestamp(pause['since'])}: {pause['reason']}; "
            f"continue with `evalworker resume{option}`"
        )
    lines += [
        f"waiting for {gate['scope']} since {timestamp(gate['closed_at'])}: {gate['reason']} "
        f"({_next_attempt(gate['opens_at'])})"
        for gate in status["waiting_for"]
    ]
    for replica in status["replicas"]:
        if replica["key_error"] is not None:
            lines.append(
                f"key refused: that of replica {replica['holder']} since "
                f"{timestamp(replica['key_refused_at'])}: {replica['key_error']}"
            )
        if replica["send_error"] is not None:
            lines.append(
                f"messages cannot be sent: by replica {replica['holder']} since "
                f"{timestamp(replica['send_failed_at'])}: {replica['send_error']}"
            )
    lines += [
        f"in doubt: batch {batch['id']}, {quantity(batch['item_count'], 'input')} for "
        f"{batch['judge_id']}: {batch['error']} (next search {batch['due_at']:%H:%M:%S})"
        for batch in status["in_doubt"]
    ]
    lines += [
        f"on hold: batch {batch['id']}, {quantity(batch['item_count'], 'input')} for "
        f"{batch['judge_id']}: {batch['error']}; `evalworker resolve {batch['id']}` goes on with "
        "it, and with --resubmit its inputs are evaluated again"
        for batch in status["held"]
    ]
    return [escape_controls(line) for line in lines]


def _next_attempt(opens_at: datetime) -> str:
    if opens_at > datetime.now(UTC):
        return f"next attempt {opens_at:%H:%M:%S}"
    return "the next request that is due will try again"


def pooler_lines(situation: dict[str, Any]) -> list[str]:
    """Return a line about the pooler before the database, if there is one."""
    mode = situation["pooler"]
    return [f"pooler: PostgreSQL is behind a pooler in {mode} mode"] if mode else []


def notice_lines(notices: dict[str, Any]) -> list[str]:
    """Return a line that counts the notices, and one for each that could not be delivered."""
    counts = {name: count for name, count in notices.items() if name != "latest_failed"}
    lines = [f"notices: {join_counts(counts)}"] if counts else []
    return lines + [
        f"not delivered: the notice of job {notice['job_id']}, "
        f"after {quantity(notice['attempts'], 'attempt')}: {notice['error']}"
        for notice in notices["latest_failed"]
    ]


def join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
