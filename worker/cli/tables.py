"""Tables for people: whole at any width of a terminal, and a plain line each in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

GAP = 2  # between two columns
LEAST = 10  # characters of a column that may be cut


@dataclass(frozen=True, slots=True)
class Column:
    """Never cut, unless it says so: half an id or half a number is worse than none."""

    name: str
    number: bool = False
    cut: bool = False
    optional: bool = False  # left out where the width does not do, the last ones first


def table_of(columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int) -> Table:
    """As much as fits into so many characters."""
    texts = [["" if value is None else one_line(str(value)) for value in row] for row in rows]
    needed = [
        max(cell_len(text) for text in (column.name, *(row[place] for row in texts)))
        for place, column in enumerate(columns)
    ]
    widths = _widths(columns, needed, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for place, given in widths.items():
        column = columns[place]
        table.add_column(
            column.name,
            no_wrap=True,
            overflow="ellipsis",
            width=given,
            justify="right" if column.number else "left",
        )
    for row in texts:
        table.add_row(*(escape(row[place]) for place in widths))
    return table


def _widths(columns: Sequence[Column], needed: Sequence[int], width: int) -> dict[int, int]:
    """Of the columns that are shown, by their places."""
    widths = {
        place: min(most, LEAST) if columns[place].cut else most for place, most in enumerate(needed)
    }

    def left() -> int:
        return width - sum(widths.values()) - GAP * (len(widths) - 1)

    for place in reversed(range(len(columns))):
        if left() >= 0:
            break
        if columns[place].optional:
            del widths[place]
    for place in widths:
        more = min(needed[place] - widths[place], left())
        widths[place] += max(more, 0)
    return widths


def counted(number: int, what: str) -> str:
    """As people say it: 1 input, 2 inputs, 1,000 inputs, 2 batches."""
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith('ch') else 's'}"


def moment(value: datetime | None) -> str:
    """A time as people read it, in UTC."""
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(value: datetime | None, now: datetime) -> str:
    """How long since then, in few characters: 40s, 12m, 5h, 3d."""
    return "" if value is None else span((now - value).total_seconds())


def span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def one_line(text: str | None, most: int = 200) -> str:
    """Text from anywhere, without line ends, and not too long."""
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
