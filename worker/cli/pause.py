"""Pause one judge, or all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.admin import NO_REASON
from worker.cli.context import AsJson, PausedJudge, open_admin, out, print_json
from worker.cli.presentation import scope_name
from worker.domain.phrases import quantity


def pause(
    judge: PausedJudge = None,
    reason: Annotated[str, typer.Option(help="Reason, shown by `status` and `check`.")] = NO_REASON,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        newly = admin.pause(judge, reason=reason)
        waiting = sum(row["waiting"] for row in admin.judges() if judge in (None, row["judge_id"]))
    if as_json:
        print_json({"paused": judge, "newly": newly, "waiting": waiting})
        return
    state = "is paused" if newly else "was already paused; the reason is now"
    out.print(
        f"{scope_name(judge)} {state}: {reason}; {quantity(waiting, 'input')} waiting", markup=False
    )
