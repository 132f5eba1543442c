"""Files of inputs: every bad line is named, and a good file is read in constant memory."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from worker.cli.input_files import check_file, read_inputs
from worker.errors import SHOWN, InvalidInputs

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, content: bytes | str, name: str = "inputs.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def offences_of(path: Path) -> list[str]:
    with pytest.raises(InvalidInputs) as caught:
        check_file(path)
    return caught.value.offences


GOOD = '{"request": "a"}\n'


def test_every_line_of_a_good_file_is_an_input(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "ü"}\n\n  \n{"response": "b", "contexts": ["c"]}')
    assert check_file(path).inputs == 2
    assert list(read_inputs(path)) == [{"request": "ü"}, {"response": "b", "contexts": ["c"]}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "X.CSV"])
def test_line_ends_and_a_byte_order_mark_change_nothing(
    tmp_path: Path, end: str, mark: bytes, name: str
) -> None:
    header = "request" if name.lower().endswith(".csv") else '{"request": "one"}'
    second = "two" if name.lower().endswith(".csv") else '{"request": "two"}'
    path = write(tmp_path, mark + f"{header}{end}{second}{end}".encode(), name)
    check_file(path)
    assert [value["request"] for value in read_inputs(path)][-1] == "two"


def test_fields_that_the_api_does_not_have_are_ignored_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "a", "model": "m", "response": null, "is_correct": true}\n')
    assert check_file(path).ignored == {"model", "is_correct"}
    assert list(read_inputs(path)) == [{"request": "a"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON: "),
        (b"[1]", "must be an object, not a list"),
        (b'"text"', "must be an object, not a string"),
        (b'{"request": "\xff"}', "is not UTF-8 (byte 14)"),
        (b'{"request": "\\u0000"}', "request contains a NUL character"),
        (b'{"request": "\x00"}', "is not JSON: "),
        (b'{"request": "\\ud800"}', "request contains an unpaired surrogate"),
        (b'{"request": "q", "contexts": ["a", ""]}', "contexts[1] must not be empty"),
        (b'{"model": "m"}', "needs `request`, `response` or `turns`; found: model"),
        (b'{"request": "q", "functions": [{"a": NaN}]}', "functions[0].a is not a finite number"),
        (
            b'{"request": "q", "functions": [{"a": ' + b"1" * 5000 + b"}]}",
            "is not readable JSON: a number",
        ),
        (b"[" * 100_000, "is not readable JSON: nested too deeply"),
        (
            b'{"request": "q", "functions": [{"a": ' + b"[" * 900 + b"]" * 900 + b"}]}",
            "functions[0].a[0]",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_bad_line_is_named_with_the_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path, GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    (offence,) = offences_of(path)
    assert offence.startswith(f"line 3: {reason}")


def test_all_bad_lines_are_counted_and_the_first_ones_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "[]\n" * (SHOWN + 25))
    with pytest.raises(InvalidInputs) as caught:
        check_file(path)
    assert (len(caught.value.offences), caught.value.total) == (SHOWN, SHOWN + 25)
    assert str(caught.value).endswith("… and 25 more")


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_inputs_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert offences_of(write(tmp_path, content, name)) == ["line 1: the file has no inputs"]


def test_a_header_alone_is_not_an_input(tmp_path: Path) -> None:
    path = write(tmp_path, "request,response\n", "x.csv")
    assert offences_of(path) == ["line 1: the file has no inputs"]


def test_cells_of_csv_hold_strings_or_json_or_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["request", " contexts ", "functions", "turns", "expected_output", "model"])
    writer.writerow(['says "a,b"\nand more', '["c"]', '[{"f": 1}]', "", "", "m"])
    path = write(tmp_path, "\n" + out.getvalue(), "x.csv")
    assert check_file(path).ignored == {"model"}
    assert list(read_inputs(path)) == [
        {"request": 'says "a,b"\nand more', "contexts": ["c"], "functions": [{"f": 1}]}
    ]


def test_lines_of_csv_are_counted_over_quoted_newlines(tmp_path: Path) -> None:
    content = 'request,contexts\n"one\ntwo\nthree",\n\nok,\nbad,not json\nbad,"[1]"\na,b,c\n'
    assert offences_of(write(tmp_path, content, "x.csv")) == [
        "line 7: contexts does not hold JSON",
        "line 8: contexts[0] must be a string, not a number",
        "line 9: has 3 cells, the header has 2",
    ]


@pytest.mark.parametrize(
    ("content", "offence"),
    [
        (b"requ\xffest\na\n", "line 1: is not UTF-8"),
        (b"request\na\n\xff\nb\n", "line 3: is not UTF-8"),
        (b"request\na\x00b\n", "line 2: request contains a NUL character, which cannot be stored"),
        (b"request,response,request\na,b,c\n", "line 1: names a column twice: request"),
        (b'request\n"never closed\nb\n', "line 2: is not CSV: unexpected end of data"),
    ],
)
def test_csv_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, offence: str) -> None:
    assert offences_of(write(tmp_path, content, "x.csv")) == [offence]


def test_a_cell_of_csv_can_be_large(tmp_path: Path) -> None:
    path = write(tmp_path, "request\n" + "x" * 500_000 + "\n", "x.csv")
    check_file(path)
    assert len(next(read_inputs(path))["request"]) == 500_000


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_progress_counts_bytes_up_to_the_size_of_the_file(tmp_path: Path, name: str) -> None:
    content = "request\n" + "x\n" * 50 if name == "x.csv" else GOOD * 50
    path = write(tmp_path, content, name)
    done: list[int] = []
    check_file(path, done.append)
    assert done == sorted(done)
    assert done[-1] == path.stat().st_size


def test_a_file_that_changed_after_it_was_checked_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    check_file(path)
    write(tmp_path, "[]\n")
    with pytest.raises(InvalidInputs, match="line 1: changed since the file was checked"):
        list(read_inputs(path))


def test_a_large_file_is_read_in_constant_memory(tmp_path: Path) -> None:
    line: dict[str, Any] = {"request": "x" * 2000}
    path = write(tmp_path, (json.dumps(line) + "\n") * 10_000)  # 20 MB
    tracemalloc.start()
    try:
        assert check_file(path).inputs == 10_000
        assert sum(1 for _ in read_inputs(path)) == 10_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
