"""Pause one judge, or all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.context import AsJson, PausedJudge, open_admin, print_json, print_line
from worker.cli.presentation import scope_name
from worker.domain.phrases import quantity


def pause(
    judge: PausedJudge = None,
    reason: Annotated[
        str | None,
        typer.Option(
            help="Reason, shown by `status` and `check`. Without it, an existing one is kept."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        newly = admin.pause(judge, reason=reason)
        reasons = {row["judge_id"]: row["reason"] for row in admin.status()["paused"]}
        work = [row for row in admin.judges() if judge in (None, row["judge_id"])]
    waiting = sum(row["waiting"] for row in work)
    if as_json:
        print_json({"paused": judge, "newly": newly, "waiting": waiting})
        return
    state = "is paused" if newly else "was already paused"
    if reason and not newly:
        state += "; the reason is now"
    shown = reasons.get(judge, reason)
    # A typing error in an emergency must not look like a stop.
    is_idle = judge is not None and not any(row["jobs"] for row in work)
    effect = "no open job has this judge" if is_idle else f"{quantity(waiting, 'input')} waiting"
    print_line(f"{scope_name(judge)} {state}: {shown}; {effect}")
