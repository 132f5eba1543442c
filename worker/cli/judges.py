"""List the judges of the API."""

from __future__ import annotations

from worker.cli.context import AsJson, configure, print_json, print_line, print_table
from worker.cli.tables import Column
from worker.domain.outcomes import JudgeEntry, JudgesListed, NotFound
from worker.errors import EvalWorkerError
from worker.remote.client import JudgeAPI, open_judge_api

MAX_PAGES = 20
COLUMNS = (Column("judge"), Column("name", shrinkable=True), Column("intent", shrinkable=True))


def judges(as_json: AsJson = False) -> None:
    settings = configure()
    with open_judge_api(settings) as api:
        found, is_complete = _read(api, settings.api_url)
    if as_json:
        print_json([judge._asdict() for judge in found])
        return
    print_table(COLUMNS, [(judge.id, judge.name, judge.intent) for judge in found])
    if not is_complete:
        print_line(f"… and more: these are the first {len(found):,}")


def _read(api: JudgeAPI, shown_url: str) -> tuple[list[JudgeEntry], bool]:
    """Return the judges, and whether these are all."""
    found: list[JudgeEntry] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = api.list_judges(cursor=cursor)
        match page:
            case JudgesListed():
                found += page.judges
            case NotFound():
                raise EvalWorkerError(
                    f"{shown_url} does not list its judges: ask whoever runs it for their ids"
                )
            case _:
                raise EvalWorkerError(f"{shown_url}: {page.reason}")
        cursor = page.next_cursor
        if cursor is None:
            return found, True
    return found, False
