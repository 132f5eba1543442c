"""Print the history of a job."""

from __future__ import annotations

from typing import Any

from worker.cli.context import AsJson, JobId, open_admin, out, print_json
from worker.domain.phrases import one_line, timestamp, value_text
from worker.domain.terminal_text import escape_controls


def events(job: JobId, as_json: AsJson = False) -> None:
    with open_admin() as admin:
        for event in admin.events(admin.find_job(job)):
            if as_json:
                print_json(event)
            else:
                out.print(escape_controls(_line(event)), markup=False, soft_wrap=True)


def _line(event: dict[str, Any]) -> str:
    parts = [timestamp(event["at"]), f"{event['event']:<18}"]
    if event["item_index"] is not None:
        parts.append(f"input {event['item_index']}")
    if event["batch_id"] is not None:
        parts.append(f"batch {event['batch_id']}")
    detail = event["detail"] or {}
    parts += [f"{name}={one_line(value_text(value), 200)}" for name, value in detail.items()]
    return "  ".join(parts)
