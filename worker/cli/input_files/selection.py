"""Take an input from a record: what fills its fields, what is kept with it, what is left out."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from worker.cli.input_files.fields import (
    FIELDS,
    JSON_FIELDS,
    TEXT_LISTS,
    TEXTS,
    near_field,
    near_name,
)
from worker.cli.input_files.json_object import RepeatedKey, WrittenFloat, decode, decoded
from worker.cli.input_files.remedies import list_remedy, map_option
from worker.validation import given_offences

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\0": "\0"}
_CODE = re.compile(r"\\x([0-9a-fA-F]{2})")  # as messages show a character that is not printable


class WrongOption(ValueError):
    """An option cannot be used as it was given."""


class Unfit(ValueError):
    """A record cannot become an input as it is."""


@dataclass(frozen=True)
class Selection:
    """What the options of `enqueue` say about the columns of a file."""

    columns: Mapping[str, str] = field(default_factory=dict)  # of fields: --map
    constants: Mapping[str, Any] = field(default_factory=dict)  # of fields: --set
    separators: Mapping[str, str] = field(default_factory=dict)  # of fields: --split
    ignored: frozenset[str] = frozenset()  # columns: --ignore
    kept: tuple[str, ...] = ()  # columns: --metadata

    @cached_property
    def own_fields(self) -> frozenset[str]:
        """Fields that are filled by the column of their own name."""
        own = FIELDS - self.columns.keys() - self.constants.keys() - self.ignored
        # Of these, other fields take a part, or metadata takes all.
        own -= {name.partition(".")[0] for name in self.columns.values() if "." in name}
        own -= {self.columns.get("turns")}  # a conversation is no text
        return own - {"metadata"} if "metadata" in self.kept else own

    @cached_property
    def named(self) -> tuple[str, ...]:
        """Columns that options take, and parts of columns."""
        return tuple(dict.fromkeys((*self.columns.values(), *self.kept)))

    def with_columns(self, columns: Mapping[str, str]) -> Selection:
        """Return the same with more fields filled from columns."""
        return replace(self, columns={**self.columns, **columns})

    def uses(self, column: str) -> bool:
        """Return whether a column fills a field or is kept."""
        return column in self.own_fields or any(is_within(column, name) for name in self.named)

    def filled(self, columns: Iterable[str]) -> set[str]:
        """Return the fields that are filled if a record has these columns."""
        given = set(columns)
        filled = {name for name in self.own_fields if name in given}
        filled |= {name for name, column in self.columns.items() if is_there(column, given)}
        return filled | self.constants.keys()

    def input_of(self, record: dict[str, Any], *, cells: bool) -> dict[str, Any]:
        """Return the input of a record; raises `Unfit` if a cell or text is not a list."""
        own = self.own_fields
        taken = {name: part for name, part in record.items() if name in own and part is not None}
        for name, column in self.columns.items():
            if (part := part_of(record, column)) is not None:
                taken[name] = _as_text(part) if name in TEXTS else part
        if cells or self.separators:
            for name in JSON_FIELDS:
                if isinstance(text := taken.get(name), str):
                    taken[name] = self._list_in(name, text, cells)
        if self.constants:
            taken |= self.constants
        if self.kept:
            parts = ((column, part_of(record, column)) for column in self.kept)
            kept = {column: _without_bytes(part) for column, part in parts if part is not None}
            own_metadata = taken.get("metadata", {})
            if isinstance(own_metadata, dict):  # else the check of the input refuses it
                taken["metadata"] = {**own_metadata, **kept}
        return taken

    def _list_in(self, name: str, text: str, cells: bool) -> Any:
        if name in self.separators:
            parts = (part.strip() for part in text.split(self.separators[name]))
            return [part for part in parts if part]
        if not cells:
            return text
        try:
            return decode(text)
        except RepeatedKey as error:
            raise Unfit(f"{name} {error}") from None
        except (ValueError, RecursionError):
            raise Unfit(f"{name} does not hold JSON: {list_remedy(name, text)}") from None


def parse_selection(
    *,
    maps: Sequence[str] = (),
    sets: Sequence[str] = (),
    splits: Sequence[str] = (),
    ignored: Sequence[str] = (),
    kept: Sequence[str] = (),
) -> Selection:
    """Read the values of the options; raises `WrongOption`."""
    columns = _pairs("--map", maps, "request=question")
    for name, column in columns.items():
        if name not in FIELDS and column in FIELDS:
            raise WrongOption(f"the input field comes first: {map_option(column, name)}")
        _check_field("--map", name)
    constants = _pairs("--set", sets, "system_prompt='Be brief.'")
    for name in constants:
        _check_field("--set", name)
        if name in columns:
            raise WrongOption(f"{name} is given by --map and by --set: choose one")
    fixed = {name: _constant(name, value) for name, value in constants.items()}
    for offence in given_offences({"request": "…", **fixed}):
        raise WrongOption(f"--set: {offence}")
    separators = _pairs("--split", splits, "contexts='|'")
    by_column = {column: name for name, column in columns.items()}
    return Selection(
        columns=columns,
        constants=fixed,
        separators={
            _list_field(name, by_column): _ESCAPES.get(value, value)
            for name, value in separators.items()
        },
        ignored=frozenset(ignored),
        kept=tuple(kept),
    )


def parse_delimiter(given: str) -> str:
    """Return the delimiter that an option names; raises `WrongOption`."""
    names = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
    delimiter = names.get(given.lower(), _ESCAPES.get(given, given))
    if code := _CODE.fullmatch(delimiter):
        delimiter = chr(int(code[1], 16))
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise WrongOption(f"{given!r} is not one character, such as ';', '|' or 'tab'")
    return delimiter


def _pairs(option: str, given: Sequence[str], example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (name and equals and value):
            raise WrongOption(f"{text!r} is not of the form {option} {example}")
        if pairs.setdefault(name, value) != value:
            raise WrongOption(f"{option} {name}=… is given twice, with different values")
    return pairs


def _check_field(option: str, name: str) -> None:
    if name in FIELDS:
        return
    near = near_field(name) or near_name(name, FIELDS)
    hint = f"; did you mean '{near}'?" if near else f": {', '.join(sorted(FIELDS))}"
    raise WrongOption(f"{option} {name}=…: {name!r} is not an input field of the judge API{hint}")


def _list_field(name: str, by_column: Mapping[str, str]) -> str:
    """Return the field that is to be split; it may be named by its column, too."""
    found = by_column.get(name, name)
    if found not in TEXT_LISTS:
        hint = "" if name in FIELDS else f"; for a column, add {map_option(TEXT_LISTS[0], name)}"
        names = " and ".join(TEXT_LISTS)
        raise WrongOption(f"--split {name}=…: only {names} are lists of strings{hint}")
    return found


def _constant(name: str, value: str) -> Any:
    if name not in JSON_FIELDS:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        example = """'["first", "second"]'""" if name in TEXT_LISTS else "'[{…}]'"
        example = """'{"id": 7}'""" if name == "metadata" else example
        raise WrongOption(f"--set {name}=…: write it as JSON, such as {example}") from None


def part_of(record: Mapping[str, Any], column: str) -> Any:
    """Return a column of a record; `a.b.0` is a part of `a`, unless there is such a column.

    What is text may be an object or a list that is written as JSON, as in the cells of exports.
    """
    if column in record or "." not in column:
        return record.get(column)
    value: Any = record
    for step in column.split("."):
        if isinstance(value, str):
            value = decoded(value)
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch(r"-?\d{1,9}", step):
            index = int(step)
            value = value[index] if -len(value) <= index < len(value) else None
        else:
            return None
    return value


def _without_bytes(value: Any) -> Any:
    """Return a value of Parquet with bytes that are no text, as metadata shows them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_without_bytes(part) for part in value]
    if isinstance(value, dict):
        return {name: _without_bytes(part) for name, part in value.items()}
    return value


def is_within(column: str, name: str) -> bool:
    """Return whether what an option names is this column, or a part of it."""
    return name == column or name.startswith(f"{column}.")


def is_there(name: str, columns: Iterable[str]) -> bool:
    """Return whether what an option names is one of these columns, or a part of one."""
    return any(is_within(column, name) for column in columns)


def _as_text(value: Any) -> Any:
    """Return the text of a number or of a boolean, as it was written in JSON."""
    if isinstance(value, WrittenFloat) and math.isfinite(value):
        return value.written
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return json.dumps(value) if is_number else value


def map_options(columns: Mapping[str, str]) -> str:
    """Return the options that fill fields from these columns, for a shell."""
    return " ".join(map_option(name, column) for name, column in columns.items())


def ignore_options(columns: Iterable[str]) -> str:
    """Return the options that leave these columns out, for a shell."""
    return " ".join(f"--ignore {shlex.quote(column)}" for column in columns)
