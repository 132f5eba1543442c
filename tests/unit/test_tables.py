"""Tables stay readable, and their ids whole, at any width."""

from __future__ import annotations

import io
from collections.abc import Sequence
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


def lines(
    width: int, columns: Sequence[Column] = COLUMNS, rows: Sequence[Sequence[object]] = ROWS
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(make_table(columns, rows, width))
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


RESULTS = (
    Column("input", numeric=True),
    Column("status"),
    Column("Exact match", numeric=True),
    Column("request", shrinkable=True),
)


@pytest.mark.parametrize("width", range(10, 60))
def test_on_a_narrow_terminal_whole_columns_go_but_never_the_first(width: int) -> None:
    rows = [[1234, "completed", "0.123", "How many are there?"]]
    head, _, row = lines(width, RESULTS, rows)
    assert row.split()[0] == "1234"
    assert max(len(head), len(row)) <= width
    assert row.replace("How many are there?", "?").split()[1:] in (
        [],
        ["completed"],
        ["completed", "0.123"],
        ["completed", "0.123", "?"],
        ["completed", "0.123", *row.split()[3:]],  # its last column is shortened
    )


@pytest.mark.parametrize("width", [40, 30, 12])
def test_an_id_is_shown_whole_even_where_it_needs_several_lines(width: int) -> None:
    written = lines(width)
    assert "".join(written[2:]) == JOB
    assert max(map(len, written)) <= width


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
