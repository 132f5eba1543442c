"""Write files of inputs, and read them as `enqueue` does."""

from __future__ import annotations

import io
import re
import shlex
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.cli.input_files.input_file import open_input_file
from worker.cli.input_files.selection import parse_selection
from worker.errors import InvalidInputs

if TYPE_CHECKING:
    from worker.cli.input_files.check import CheckedFile


GOOD = '{"request": "a"}\n'


def write(folder: Path, content: bytes | str, name: str = "inputs.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, *options: str) -> tuple[CheckedFile, list[dict[str, Any]]]:
    """Check a file and read its inputs, with options as on the command line."""
    given: dict[str, list[str]] = {}
    for option, value in zip(options[::2], options[1::2], strict=True):
        given.setdefault(option, []).append(value)
    selection = parse_selection(
        maps=given.get("--map", ()),
        sets=given.get("--set", ()),
        splits=given.get("--split", ()),
        ignored=given.get("--ignore", ()),
        kept=given.get("--metadata", ()),
    )
    encoding, delimiter = (given.get(name, [None])[0] for name in ("--encoding", "--delimiter"))
    with open_input_file(path, selection, encoding=encoding, delimiter=delimiter) as file:
        checked = file.check()
        inputs = list(file.inputs())
    assert checked.inputs == len(inputs)
    assert checked.examples == inputs[:3]
    return checked, inputs


def inputs_of(path: Path, *options: str) -> list[dict[str, Any]]:
    return load(path, *options)[1]


def complaints_about(path: Path, *options: str) -> list[str]:
    """Return what is said about a file that is refused, without its name."""
    with pytest.raises(InvalidInputs) as caught:
        load(path, *options)
    assert all(offence.startswith(f"{path}: ") for offence in caught.value.offences)
    return [offence.removeprefix(f"{path}: ") for offence in caught.value.offences]


def options_in(complaints: list[str]) -> list[str]:
    """Return the options that the messages suggest to add."""
    found: list[str] = []
    for line in "\n".join(complaints).splitlines():
        if "leave out" not in line:
            for option in re.findall(
                r"--(?:map|encoding|split) (?:'[^']*'|[^\s;]+)(?:'[^']*')?", line
            ):
                if "--split" in option and "--split" in found:  # the other choice
                    at = found.index("--split")
                    del found[at : at + 2]
                found += shlex.split(option)
    return found


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "request\na\n")
    return out.getvalue()


def parquet(**columns: list[Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()
