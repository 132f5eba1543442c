"""What the views have in common: jobs as rows, counts in words, and what keeps work waiting."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from worker.cli.tables import Column, ago, counted, moment

JOB_COLUMNS = (
    Column("job"),
    Column("judge", cut=True),
    Column("status"),
    Column("done", number=True),
    Column("failed", number=True),
    Column("waiting", number=True, optional=True),
    Column("in flight", number=True, optional=True),
    Column("age", number=True, optional=True),
)


def job_row(row: dict[str, Any], now: datetime) -> list[object]:
    done = f"{row['completed']}/{row['total']}"
    counts = [row[name] for name in ("failed", "waiting", "in_flight")]
    return [
        row["job_id"],
        row["judge_id"],
        row["status"],
        done,
        *counts,
        ago(row["created_at"], now),
    ]


def obstacles(found: dict[str, Any]) -> list[str]:
    """What keeps work from going on, a line each: pauses, closed gates, held batches."""
    lines = []
    for pause in found["paused"]:
        judge_id = pause["judge_id"]
        what, option = ("everything", "")
        if judge_id is not None:
            what, option = f"judge {judge_id}", f" --judge {judge_id}"
        lines.append(
            f"paused: {what} since {moment(pause['since'])}: {pause['reason']}; "
            f"go on with `evalworker resume{option}`"
        )
    lines += [
        f"waiting for {gate['scope']} since {moment(gate['closed_at'])}: {gate['reason']} "
        f"(next try {gate['opens_at']:%H:%M:%S})"
        for gate in found["waiting_for"]
    ]
    lines += [
        f"held: batch {batch['id']}, {counted(batch['item_count'], 'input')} for "
        f"{batch['judge_id']}: {batch['error']}; go on with `evalworker resolve {batch['id']}`"
        for batch in found["held"]
    ]
    return lines


def notice_lines(notices: dict[str, Any]) -> list[str]:
    """How many notices there are, and those that never arrived, a line each."""
    failed = notices["latest_failed"]
    counts = {name: count for name, count in notices.items() if name != "latest_failed"}
    lines = [f"notices: {listed(counts)}"] if counts else []
    return lines + [
        f"not told: job {notice['job_id']}, after {notice['attempts']} tries: {notice['error']}"
        for notice in failed
    ]


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
