"""Tables stay readable, and their ids whole, at any width."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from worker.cli.tables import Column, make_table
from worker.domain.phrases import age, quantity

JOB = "01a210d6-50d4-717d-8946-3699ca51663f"
COLUMNS = (
    Column("job"),
    Column("judge", shrinkable=True),
    Column("done", numeric=True),
    Column("waiting", numeric=True, optional=True),
    Column("age", numeric=True, optional=True),
)
ROWS = [[JOB, "a judge with a [rather] long name", "276/2000", 1424, "3m"]]


def lines(width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(make_table(COLUMNS, ROWS, width))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in written.splitlines()]


def test_a_wide_terminal_shows_every_column_in_full() -> None:
    head, _, row = lines(120)
    assert head.split() == ["job", "judge", "done", "waiting", "age"]
    assert row.split() == f"{JOB} a judge with a [rather] long name 276/2000 1424 3m".split()


@pytest.mark.parametrize("width", range(60, 110))
def test_no_id_and_no_number_is_cut_and_no_line_is_wrapped(width: int) -> None:
    head, _, row = lines(width)
    assert row.startswith(JOB)
    assert "276/2000" in row
    assert max(len(head), len(row)) <= width
    assert ("waiting" in head) == ("1424" in row)


def test_the_last_optional_column_is_dropped_first() -> None:
    assert "waiting" in lines(80)[0]
    assert "age" not in lines(70)[0]


def test_quantities_and_ages_are_short() -> None:
    assert [quantity(n, "input") for n in (0, 1, 1000)] == ["0 inputs", "1 input", "1,000 inputs"]
    assert quantity(2, "batch") == "2 batches"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for seconds, shown in ((40, "40s"), (150, "2m"), (9000, "2h"), (300_000, "3d"), (-5, "0s")):
        assert age(now - timedelta(seconds=seconds), now) == shown
    assert age(None, now) == ""
