"""Make tables for a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from worker.domain.phrases import one_line

GAP = 2  # characters between two columns
MIN_WIDTH = 10  # characters that a shrinkable column keeps


@dataclass(frozen=True, slots=True)
class Column:
    """A column is shown in full unless it may shrink: half an id or number is worse than none.

    Where the width does not suffice, whole columns are dropped: optional ones, then shrinkable
    ones, then others, the last one first. The first column stays, because it names the row.
    """

    name: str
    numeric: bool = False
    shrinkable: bool = False
    optional: bool = False


def make_table(columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int) -> Table:
    """Return the table of these rows, fitted to a width in characters."""
    names = [one_line(column.name) for column in columns]
    texts = [["" if value is None else one_line(str(value)) for value in row] for row in rows]
    full_widths = [
        max(cell_len(text) for text in (name, *(row[index] for row in texts)))
        for index, name in enumerate(names)
    ]
    widths = _fit(columns, full_widths, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for index, column_width in widths.items():
        too_wide = column_width > width  # only where nothing else is shown
        table.add_column(
            escape(names[index]),
            no_wrap=not too_wide,
            overflow="fold" if too_wide else "ellipsis",
            width=min(column_width, width),
            justify="right" if columns[index].numeric else "left",
        )
    for row in texts:
        table.add_row(*(escape(row[index]) for index in widths))
    return table


def _fit(columns: Sequence[Column], full_widths: Sequence[int], width: int) -> dict[int, int]:
    """Return the widths of the columns to show, by the columns' indexes."""
    widths = {
        index: min(full, MIN_WIDTH) if columns[index].shrinkable else full
        for index, full in enumerate(full_widths)
    }

    def room() -> int:
        return width - sum(widths.values()) - GAP * (len(widths) - 1)

    for index in _dispensable(columns):
        if room() >= 0:
            break
        del widths[index]
    for index in widths:
        widths[index] += max(0, min(full_widths[index] - widths[index], room()))
    return widths


def _dispensable(columns: Sequence[Column]) -> list[int]:
    """Return the indexes of all columns but the first, in the order in which they are dropped."""
    last_first = range(len(columns) - 1, 0, -1)
    return sorted(
        last_first, key=lambda index: (not columns[index].optional, not columns[index].shrinkable)
    )
