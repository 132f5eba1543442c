"""End the pause of one judge, or that of all."""

from __future__ import annotations

from worker.cli.context import AsJson, PausedJudge, open_admin, print_json, print_line
from worker.cli.presentation import scope_name


def resume(judge: PausedJudge = None, as_json: AsJson = False) -> None:
    with open_admin() as admin:
        admin.resume(judge)
        paused = admin.status()["paused"]
    if as_json:
        print_json({"resumed": judge, "paused": paused})
        return
    print_line(f"{scope_name(judge)} is resumed")
    for row in paused:
        print_line(f"still paused: {scope_name(row['judge_id'])}: {row['reason']}")
