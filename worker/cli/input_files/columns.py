"""Compare the columns of a file with what is needed, and say which options fit them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.cli.input_files.fields import (
    FIELDS,
    alias_field,
    fits,
    meant_field,
    near_field,
    near_name,
    suggested_columns,
)
from worker.cli.input_files.jq import jq_command, jq_path
from worker.cli.input_files.json_object import decoded
from worker.cli.input_files.remedies import map_option
from worker.cli.input_files.selection import Selection, ignore_options, is_there, map_options
from worker.domain.phrases import one_line
from worker.wire.inputs import CONTENT_FIELDS

_SHOWN = 12  # columns
_SHOWN_NAME = 40  # characters of a name: a file without a header has texts there
_DEPTH = 3  # of nested objects


@dataclass(frozen=True, slots=True)
class ColumnOffence:
    """What is wrong with the columns of a file, and the columns that would fill its fields."""

    text: str
    suggested: dict[str, str] = field(default_factory=dict)


def column_offence(
    record: Mapping[str, Any], selection: Selection, jq_records: str | None = None
) -> ColumnOffence | None:
    """Return what is wrong with the columns of a file; None if it can be read.

    Args:
        record: Each column with a value of it, or with None.
        selection: What the user asked for.
        jq_records: `Table.jq_records` of the file.
    """
    columns = flat(record)
    filled = selection.filled(record)
    if not filled & set(CONTENT_FIELDS):
        return _nothing_to_evaluate(columns, filled, selection, jq_records)
    return misspelt_offence(columns, filled, selection)


def missing_offence(columns: Iterable[str], selection: Selection) -> ColumnOffence | None:
    """Return which columns the options take that the file does not have."""
    given = list(columns)
    missing = [name for name in selection.named if not is_there(name, given)]
    return ColumnOffence(absence(missing, given)) if missing else None


def absence(missing: Iterable[str], given: Collection[str]) -> str:
    """Say that a file does not have these columns."""
    near = {name: near_name(name, given) for name in missing}
    hints = [
        f"{name!r} (did you mean {near[name]!r}?)" if near[name] else repr(name) for name in near
    ]
    return f"has no column {', '.join(hints)}\nits columns: {listed(given)}"


def split_offence(columns: Iterable[str], selection: Selection) -> str | None:
    """Return which fields are to be split that no column fills."""
    given = list(columns)
    empty = sorted(selection.separators.keys() - selection.filled(given))
    if not empty:
        return None
    options = map_options(dict.fromkeys(empty, "COLUMN"))
    return f"no column fills {', '.join(empty)}: add {options}\nits columns: {listed(given)}"


def misspelt_offence(
    columns: Mapping[str, Any], filled: set[str], selection: Selection
) -> ColumnOffence | None:
    """Return which columns seem meant for a field that is not filled, with the options for them.

    Other columns are left out and named: people's files have ids, categories and scores. Whoever
    names columns by `--map` has seen them, and then only misspelt fields are refused.
    """
    meant: dict[str, str] = {}
    for column in sorted(columns, key=lambda one: columns[one] is None):
        if column in FIELDS or column in selection.ignored or selection.uses(column):
            continue
        near = near_field(column)
        name = near or (None if selection.columns else _other_name(column, columns[column]))
        if name is None or name in filled or name in meant:
            continue
        if not near and not fits(name, columns[column]):
            continue
        if name in CONTENT_FIELDS and name != near_field(column) and "turns" in filled:
            continue  # a conversation has both
        meant[name] = column
    if not meant:
        return None
    named = ", ".join(
        f"{one_line(column, _SHOWN_NAME)} (did you mean '{name}'?)"
        for name, column in meant.items()
    )
    verb = "is not an input field" if len(meant) == 1 else "are not input fields"
    return ColumnOffence(
        f"{named} {verb} of the judge API\n"
        f"to take: {map_options(meant)}\n"
        f"to leave out: {ignore_options(meant.values())}",
        meant,
    )


def _other_name(column: str, value: Any) -> str | None:
    """Return the field for which a column has another name; a member must be a text of it."""
    if "." not in column:
        return alias_field(column)
    field = meant_field(column)
    return field if field in CONTENT_FIELDS and isinstance(value, str) else None


def unfilled_note(record: Mapping[str, Any], selection: Selection) -> str | None:
    """Say which column may be the request, where `--map` fills other fields alone."""
    columns = flat(record)
    filled = selection.filled(record)
    if not selection.columns or filled & {"request", "turns"}:
        return None
    suggested = suggested_columns(_free(columns, selection), filled)
    name = next((name for name in ("turns", "request") if name in suggested), None)
    if name is None:
        return None
    return f"no column fills request; to take one, add: {map_option(name, suggested[name])}"


def _free(columns: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """Return the columns that no option takes or leaves out."""
    return {
        column: value
        for column, value in columns.items()
        if column not in selection.ignored and not selection.uses(column)
    }


def _nothing_to_evaluate(
    columns: dict[str, Any], filled: set[str], selection: Selection, jq_records: str | None
) -> ColumnOffence:
    if missing := missing_offence(columns, selection):
        return missing
    free = _free(columns, selection)
    suggested = suggested_columns(free, filled | set(selection.constants))
    if set(suggested) & set(CONTENT_FIELDS):
        remedy = f"if these are right, add: {map_options(suggested)}"
    elif column := _from_and_value(free):
        suggested = {}
        renamed = f".turns = ({jq_path(column)} | map({{role: .from, content: .value}}))"
        remedy = f"{column} needs `role` and `content`: {jq_command((jq_records or '') + renamed)}"
        if jq_records is None:
            remedy = (
                f"write it as JSONL (DataFrame.to_json(…, orient='records', lines=True)):\n{remedy}"
            )
    elif jq_records is not None and (path := _path_to_records(columns)):
        suggested = {}
        program = f"{jq_records}{path}" if jq_records else path
        remedy = f"if its inputs are within: {jq_command(program)}"
    else:
        suggested = {}
        remedy = (
            "name the columns of texts, --map request=COLUMN --map response=COLUMN, or of"
            ' conversations, [{"role": "user", "content": "…"}, …]: --map turns=COLUMN'
        )
    return ColumnOffence(
        f"needs `request`, `response` or `turns`\nits columns: {listed(columns)}\n{remedy}",
        suggested,
    )


def _path_to_records(columns: Mapping[str, Any], depth: int = _DEPTH) -> str | None:
    """Return jq's path to objects within a record that have something to evaluate."""
    for column, value in columns.items():
        first = value[0] if isinstance(value, list) and value else None
        if not isinstance(first, dict):
            continue
        path = f"{jq_path(column)}[]"
        if any((near_field(name) or alias_field(name)) in CONTENT_FIELDS for name in first):
            return path
        if depth and (rest := _path_to_records(first, depth - 1)):
            return path + rest
    return None


def _from_and_value(columns: Mapping[str, Any]) -> str | None:
    """Return the column with a conversation as ShareGPT writes it."""
    for column, value in columns.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and {"from", "value"} <= first.keys():
            return column
    return None


def left_out(columns: Iterable[str], selection: Selection) -> list[str]:
    """Return the columns that are not taken although no option says so."""
    return sorted(
        column
        for column in columns
        if not selection.uses(column) and column not in selection.ignored
    )


def flat(record: Mapping[str, Any], prefix: str = "", depth: int = _DEPTH) -> dict[str, Any]:
    """Return the columns of a record, and in place of an object its members, as `a.b`."""
    columns: dict[str, Any] = {}
    for name, value in record.items():
        path = prefix + name
        if isinstance(value, dict) and value and depth and name not in FIELDS:
            columns |= flat(value, f"{path}.", depth - 1)
        else:
            columns[path] = value
    return columns


def json_in_cell(name: str, cell: Any) -> Any:
    """Return the messages or the object in a cell, if a part of it may be meant; else the cell."""
    part = decoded(cell) if isinstance(cell, str) else cell
    if isinstance(part, dict):
        return part if any(map(meant_field, flat({name: part}))) else cell
    is_messages = isinstance(part, list) and bool(part) and isinstance(part[0], dict)
    return part if is_messages else cell


def listed(columns: Iterable[str]) -> str:
    """Return names of columns for a person: not too many, and none too long."""
    names = [one_line(name, _SHOWN_NAME) for name in columns]
    more = len(names) - _SHOWN
    end = f" and {more} more" if more > 0 else ""
    return ", ".join(names[:_SHOWN]) + end


def taken_columns(columns: Iterable[str], selection: Selection) -> dict[str, str]:
    """Return the column that fills each field of the input."""
    own = {name: name for name in columns if name in selection.own_fields}
    return own | dict(selection.columns)
