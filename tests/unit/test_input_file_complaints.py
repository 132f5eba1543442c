"""Files that cannot be read are refused with the line, the reason and what helps."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.input_files import (
    GOOD,
    complaints_about,
    inputs_of,
    load,
    parquet,
    write,
    zipped,
)
from worker.cli.input_files.complaints import SHOWN
from worker.cli.input_files.input_file import open_input_file
from worker.cli.input_files.json_lines import JsonLines
from worker.cli.input_files.record import Record
from worker.errors import EvalWorkerError, InvalidInputs

TRAILING_COMMA = (
    "is not JSON: Illegal trailing comma before end of object (column 16)"
    if sys.version_info >= (3, 13)
    else "is not JSON: Expecting property name enclosed in double quotes (column 17): a comma"
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped("xl/workbook.xml", "b"), "is an Excel file: save it as CSV"),
        (zipped("content.xml", "mimetype"), "is an OpenDocument file: save it as CSV"),
        (zipped("word/document.xml", "b"), "is a Word document"),
        (zipped("data.csv"), "is a zip archive: unzip -p FILE | evalworker enqueue - …"),
        (zipped("a.csv", "b.csv"), "is a zip archive of 2 files: unpack it first"),
        (zipped("a.csv")[:-30], "is a damaged zip archive"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "is an Excel or Word file of before 2007",
        ),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF"),
        (b"- request: q\n  response: a\n", "is YAML: yq -o json -I 0 '.[]' FILE | evalworker"),
        (b"\x1f\x9d\x90abc", "is compressed by compress: uncompress -c FILE | evalworker"),
        (b"\x04\x22\x4d\x18abc", "is compressed by lz4: lz4 -dc FILE | evalworker enqueue"),
        (lzma.compress(b"x", lzma.FORMAT_ALONE), "is compressed by lzma: xz -dc FILE | evalworker"),
        (b"\n<!DOCTYPE html><html>", "is a web page (HTML) instead of the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"SQLite format 3\0" + bytes(90), "is a SQLite database"),
        (b"PAR1 and no more", "is a cut-off or damaged Parquet file"),
        (gzip.compress(GOOD.encode() * 9999)[:-30], "its gzip data is cut off or damaged"),
        (gzip.compress(b"%PDF-1.7"), "is a PDF"),
        (bytes(range(256)), "line 2: is neither text nor of another known kind"),
        (bytes(99), "is neither text nor of another known kind"),
        (b"", "the file has no inputs"),
        (b"\n \n", "the file has no inputs"),
        (b"request,response\n", "the file has no inputs, only a header"),
        (
            b'{"question": {"0": "q"}, "answer": {"0": "a"}}',
            "is one object with the keys question, ",
        ),
        (b'{"question": ["q"], "answer": ["a"]}', "is one object with the keys question, answer"),
        (b'{"a": [{"request": "q"}], "b": [{"request": "q"}]}', "its object has several arrays"),
        (
            b'{"v": 1, "results": {"all": [{"prompt": "q"}]}}',
            "is one object; its inputs may be in res",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
@pytest.mark.parametrize("name", ["inputs.csv", "inputs"])
def test_a_file_that_holds_no_inputs_is_recognised_by_its_content(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (complaint,) = complaints_about(write(tmp_path, content, name))
    assert complaint.startswith(reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON: "),
        (
            b'{"request": "a',
            "is not JSON: Unterminated string starting at (column 13): it is cut off",
        ),
        (b"{'request': 'a'}", "is not JSON: Expecting property name enclosed in double quotes"),
        (
            b'{"request": None}',
            "is not JSON: Expecting value (column 13): it looks like Python; write it",
        ),
        (b'{"request": "a"},', "is not JSON: Extra data (column 17): a comma follows the object"),
        (b"[1]", "must be an object, not a list"),
        (b'[{"request": "a"}]', "must be an object, not a list: take its elements: jq -c '.[]'"),
        (b'{"request": "a",}', TRAILING_COMMA),
        (b'{"request": "a\tb"}', "is not JSON: Invalid control character at (column 15): json"),
        (b'"text"', "must be an object, not a string"),
        (b'{"request": "\xff"}', "is not UTF-8 (byte 14)"),
        (
            b'{"request": "\\u0000"}',
            "request contains a NUL character, which cannot be stored: remove it:"
            ' jq -c \'(.. | strings) |= gsub("\\u0000"; "")\' FILE | evalworker enqueue - …',
        ),
        (b'{"request": "\x00"}', "is not JSON: "),
        (b'{"request": "\\ud800"}', "request contains an unpaired surrogate"),
        (b'{"request": "a", "request": "b"}', 'has the key "request" twice'),
        (b'{"request": "a", "functions": [{"x": 1, "x": 2}]}', 'has the key "x" twice'),
        (b'{"request": "a", "contexts": ["a", ""]}', "contexts[1] must not be empty"),
        (b'{"model": "m"}', "needs `request`, `response` or `turns`; found: model"),
        (b'{"contexts": ["only"]}', "needs `request`, `response` or `turns`; found: contexts"),
        (b'{"request": null}', "needs `request`, `response` or `turns`; found: request (null)"),
        (
            b'{"response": "a", "reqest": "q"}',
            "reqest (did you mean 'request'?) is not an input field",
        ),
        (b'{"request": 5}', "request must be a string, not a number: to take it as text"),
        (b'{"request": "a", "functions": [{"a": NaN}]}', "functions[0].a is not a finite number"),
        (b'{"request": "a", "response": -Infinity}', "response must be a string, not a number: wr"),
        (
            b'{"request": "a", "functions": [{"a": ' + b"1" * 5000 + b"}]}",
            "is not readable JSON: a number",
        ),
        (b"[" * 100_000, "is not readable JSON: nested too deeply"),
        (
            b'{"request": "a", "functions": [{"a": ' + b"[" * 900 + b"]" * 900 + b"}]}",
            "functions[0].a[0]",
        ),
        (
            b'{"request": "a", "contexts": [{"text": "c"}]}',
            "contexts[0] must be a string, not an object: take their texts: jq -c '.contexts",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_bad_line_is_named_with_the_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path, GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    (complaint,) = complaints_about(path)
    assert complaint.startswith(f"line 3: {reason}")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[{"request": "a"},\n{"request"', "item 2 (line 2): is not JSON: "),
        ('[{"request": "a"},\n{"request": 1}]', "item 2 (line 2): request must be a string"),
        (
            '[{"request": "a"}\n{"request": "b"}]',
            "item 2 (line 2): is not JSON: Expecting ',' or ']'",
        ),
        ('[{"request": "a"}]\nx', "item 2 (line 2): is not part of the array, which has ended"),
        (
            '[{"request": "a"}]\n[]',
            "item 2 (line 2): is not part of the array, which has ended: take what is in each of "
            "them: jq -c '.[]' FILE | evalworker enqueue - …",
        ),
        ('[{"request": "a"},]', "item 2 (line 1): is not JSON: Expecting value (column 19): a com"),
        (
            "[" + '{"request":"a"},' * 50_000 + '{"request": x}]',
            "item 50001 (line 1): is not JSON: Expecting value (column 800014)",
        ),
        ('[{"request": "a"},\n\n"b"]', "item 2 (line 3): must be an object, not a string"),
        ('[{"request": "a", "request": "b"}]', 'item 1 (line 1): has the key "request" twice'),
        (
            '{"data":\n[{"request": "a"},{"request": "\\ud800"}]}',
            "item 2 (line 2): request contains",
        ),
        ('{\n"request": "a"\n}\n{\n"request": ]\n}', "line 5: is not JSON: Expecting value"),
        ('{"request": "a"},\n{"request": "b"}', "line 1: is not JSON: a comma follows the object"),
        ('[{"request": "' + "x" * 70_000 + '"},\n{"request": 1}]', "item 2 (line 2): request must"),
    ],
)
def test_a_bad_value_of_json_without_lines_is_named_with_its_place(
    tmp_path: Path, content: str, complaint: str
) -> None:
    (found,) = complaints_about(write(tmp_path, content, "x.json"))
    assert found.startswith(complaint)


def test_one_cause_is_one_complaint_with_its_number_and_first_place(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + '{"request": 5}\n' * 22_434 + '{"request": ["a"]}\n[]\n')
    number, of_list, of_array = complaints_about(path)
    assert number.startswith("line 2: request must be a string, not a number")
    assert number.endswith("(and 22,433 more like it, the last at line 22435)")
    assert of_list.startswith("line 22436: request must be a string, not a list")
    assert of_array == "line 22437: must be an object, not a list"


def test_a_file_of_many_causes_is_refused_in_a_few_lines(tmp_path: Path) -> None:
    lines = "".join(
        f'{{"request": "a", "functions": [{{"{letter}": NaN}}]}}\n' for letter in "abcdefgh"
    )
    complaints = complaints_about(write(tmp_path, lines))
    assert len(complaints) == SHOWN + 1
    assert complaints[-1].endswith("(and 2 more of other kinds)")


def test_lines_of_csv_are_counted_over_quoted_newlines(tmp_path: Path) -> None:
    content = (
        'request,contexts\n"one\ntwo\nthree",\n\nok,\nbad,not json\nbad,"[1]"\na,b,c\n,[]\nd\n'
    )
    assert [
        text.partition(":")[0] for text in complaints_about(write(tmp_path, content, "x.csv"))
    ] == [f"line {number}" for number in (7, 8, 9, 10, 11)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"request\na\n\xff\nb\n", "line 3: is not UTF-8 (byte 1)"),
        (b"request\na\x00b\n", "line 2: request contains a NUL character, which cannot be stored"),
        (b"request,response,request\na,b,c\n", "line 1, the header: names a column twice: request"),
        (b'request\n"never closed\nb\n', "line 2: is not CSV: unexpected end of data"),
        (b'request,response\n"a\\"b",c\n', "line 2: is not CSV: a quote inside quotes is not"),
        (b'request\tresponse\n"a" b\tc\n', "line 2: is not CSV: a quote inside quotes is not"),
        (b"'request','response'\n'q','a, b'\n", "line 1: puts its cells in single quotes"),
        (b"| request |\n|---|\n| q |\n", "line 2: is a line of a table that is drawn for people"),
        (b" request | a \n---------+---\n q | a\n", "line 2: is a line of a table that is drawn"),
        (b"+---------+---+\n| request | a |\n", "line 1: is a line of a table that is drawn"),
        (b"request,response\na,b,c\n", "line 2: has 3 cells, the header has 2"),
        (b"request,response\na\n", "line 2: has 1 of 2 cells: it is cut off"),
        (
            b"request,contexts\na,\"['b', 'c']\"\n",
            'line 2: contexts does not hold JSON: write ["fi',
        ),
        (b"request,turns\na,b\n", "line 2: turns does not hold JSON: write it as JSON, such as"),
    ],
)
def test_csv_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (found,) = complaints_about(write(tmp_path, content, "x.csv"))
    assert found.startswith(complaint)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ({"contexts": '["c", "d"]'}, "jq -c '.contexts |= fromjson' FILE | evalworker enqueue - …"),
        ({"contexts": "['c', 'd']"}, 'write ["first", "second"], as json.dumps() does'),
        (
            {"contexts": "c###d"},
            "add --split contexts='\\0' to take a text as one, or --split contexts='###' to",
        ),
        ({"contexts": [{"text": "c"}]}, "jq -c '.contexts |= map(.text)' FILE |"),
        ({"contexts": [["c"]]}, "jq -c '.contexts |= map(.[0])' FILE |"),
        ({"response": math.nan}, "write null: sed -E 's/: *(NaN|-?Infinity)/: null/g' FILE |"),
        ({"tools": [{"a": math.inf}]}, "write null: sed -E 's/: *(NaN|-?Infinity)/: null/g' FIL"),
        ({"metadata": "m"}, "to leave it out, add --ignore metadata"),
        ({"response": {"text": "a"}}, "to take a part of it, add --map response=response.text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_helps(
    tmp_path: Path, line: dict[str, Any], remedy: str
) -> None:
    (complaint,) = complaints_about(write(tmp_path, json.dumps({"request": "q", **line})))
    assert remedy in complaint


def test_what_jq_is_to_do_fits_the_file(tmp_path: Path) -> None:
    line = '{"request": "q", "contexts": [{"text": "c"}]}'
    for content, program in (
        (line, ".contexts |= map(.text)"),
        (f"[{line}]", ".[] | .contexts |= map(.text)"),
        (f'{{"data": [{line}]}}', ".data[] | .contexts |= map(.text)"),
    ):
        (complaint,) = complaints_about(write(tmp_path, content, "x.json"))
        assert f"take their texts: jq -c '{program}' FILE |" in complaint


def test_a_damaged_text_in_utf8_is_not_taken_for_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "request\nStraße\n".encode() * 9 + b"Stra\xdfe\n", "x.csv")
    (complaint,) = complaints_about(path)
    assert complaint.startswith("line 19: is not UTF-8 (byte 5), but most of the text is: correct")
    # These words are GBK, and by chance valid UTF-8.
    path = write(tmp_path, "问题,答案\n联通,中国的首都是哪里\n".encode("gbk"), "x.csv")
    assert "--encoding gb18030" in complaints_about(path)[0]


def test_commands_that_complaints_name_make_the_file_readable(tmp_path: Path) -> None:
    for name, content in (
        ("x.tsv", 'request\tresponse\nsay "hi"\t"a" b\n'),
        ("x.csv", 'request,response\n"say \\"hi\\"","""a"" b"\n'),
    ):
        (complaint,) = complaints_about(path := write(tmp_path, content, name))
        command = complaint.rpartition(": sed ")[2].partition(" FILE |")[0]
        mended = subprocess.check_output(f"sed {command} {path}", shell=True, text=True)
        (value,) = inputs_of(write(tmp_path, mended, name))
        assert value == {"request": 'say "hi"', "response": '"a" b'}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has such a file")
def test_a_file_that_cannot_be_read_is_refused_with_the_reason() -> None:
    assert complaints_about(Path("/proc/self/mem")) == ["cannot be read: Input/output error"]


def test_a_file_that_cannot_be_read_to_its_end_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: JsonLines) -> Iterator[Record]:
        yield Record(1, {"request": "q"})
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(JsonLines, "records", fail)
    path = write(tmp_path, GOOD)
    assert complaints_about(path) == ["cannot be read: Input/output error"]


def test_json_has_no_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert complaints_about(path, "--delimiter", ",") == ["is JSON: leave out --delimiter"]


@pytest.mark.parametrize(
    "content",
    [
        '{"request": ["a", "b"], "response": ["c", "d"]}',
        '{"request": {"0": "a", "1": "b"}, "response": {"0": "c", "1": "d"}}',
    ],
)
def test_columns_in_json_are_not_taken_for_one_input(tmp_path: Path, content: str) -> None:
    (complaint,) = complaints_about(write(tmp_path, content, "x.json"))
    assert "orient='records', lines=True" in complaint


def test_a_column_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["q"]), pa.array(["r"])], names=["request", "request"])
    pq.write_table(table, tmp_path / "x.parquet")
    (complaint,) = complaints_about(tmp_path / "x.parquet")
    assert complaint.startswith("schema: names a column twice: request")


def test_a_key_twice_in_the_json_of_a_cell_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 'request,functions\nq,"[{""a"": 1, ""a"": 2}]"\n', "x.csv")
    assert complaints_about(path) == ['line 2: functions has the key "a" twice']


@pytest.mark.parametrize(
    ("name", "content", "extra"),
    [
        ("x.parquet", parquet(request=["q"]), "is a Parquet file, which needs pip install"),
        ("x.zst", b"\x28\xb5\x2f\xfd", "is compressed by zstd, which needs pip install"),
    ],
)
def test_what_needs_an_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (complaint,) = complaints_about(write(tmp_path, content, name))
    assert complaint.startswith(f"{extra} 'evalworker[parquet]'")


@pytest.mark.parametrize("later", [b"[]\n", b"\xff\n", b"not json"])
def test_a_file_that_changed_after_it_was_checked_is_refused(tmp_path: Path, later: bytes) -> None:
    path = write(tmp_path, GOOD)
    with open_input_file(path) as file:
        file.check()
        write(tmp_path, later)
        with pytest.raises(InvalidInputs, match="changed since the file was checked"):
            list(file.inputs())


def test_a_copy_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full.open("r+b", buffering=0))
    path = write(tmp_path, gzip.compress(GOOD.encode() * 99_999))
    with pytest.raises(EvalWorkerError, match=r"does not fit in .* set TMPDIR to a folder"):
        load(path)


def test_another_encoding_than_the_named_one_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"request\nok\n\x81\x8d\n", "x.csv")
    (complaint,) = complaints_about(path, "--encoding", "cp1252")
    assert complaint.startswith("line 3: is not cp1252: ")


def test_bytes_that_are_no_text_are_refused_in_inputs(tmp_path: Path) -> None:
    content = parquet(request=[b"q", b"\xff"], contexts=[[b"c"], [b"\xff"]])
    text, part = complaints_about(write(tmp_path, content, "x.parquet"))
    assert text == "row 2: request must be a string, not bytes that are not UTF-8"
    assert part == "row 2: contexts[0] must be a string, not bytes that are not UTF-8"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_of_texts_in_a_tab_file_do_not_swallow_rows(tmp_path: Path, end: str) -> None:
    rows = ["request\tresponse", 'q1\t"starts', 'q2\tends"', "q3\ta"]
    (complaint,) = complaints_about(write(tmp_path, end.join(rows), "x.tsv"))
    assert complaint.startswith("line 2: has a quoted cell with a line end and a tab")
    assert "if quotes are parts of the texts: sed " in complaint


def test_csv_with_the_name_of_json_is_read_with_the_option_that_is_suggested(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "question;answer\nq;a\n", "x.json")
    assert complaints_about(path) == ["is CSV, in spite of its name: add --delimiter ';'"]
    maps = ("--map", "request=question", "--map", "response=answer")
    assert inputs_of(path, "--delimiter", ";", *maps) == [{"request": "q", "response": "a"}]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_of_few_ascii_letters_is_guessed(tmp_path: Path, encoding: str) -> None:
    text = "request,response\n" + "中国的首都是哪里,一北京是中国的首都城市\n" * 9
    path = write(tmp_path, text.encode(encoding), "x.csv")
    assert complaints_about(path) == [f"may be UTF-16: add --encoding {encoding}"]
    assert inputs_of(path, "--encoding", encoding)[0]["request"] == "中国的首都是哪里"


def test_nul_characters_are_refused_with_the_command_that_removes_them(tmp_path: Path) -> None:
    for name, content in (("x.csv", "request,id\na\0b,1\n"), ("x.jsonl", '{"request": "a\0b"}\n')):
        (complaint,) = complaints_about(path := write(tmp_path, content, name))
        command = complaint.rpartition(": tr ")[2].partition(" FILE |")[0]
        mended = subprocess.check_output(f"tr {command} {path}", shell=True, text=True)
        assert inputs_of(write(tmp_path, mended, name)) == [{"request": "ab"}]


def test_parts_of_messages_are_refused_with_the_command_that_joins_their_texts(
    tmp_path: Path,
) -> None:
    parts = [{"type": "text", "text": "Is this"}, {"type": "image"}, {"text": "a cat?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Yes."}]
    path = write(tmp_path, json.dumps({"messages": messages}))
    (complaint,) = complaints_about(path, "--map", "turns=messages")
    program = complaint.partition("jq -c '")[2].partition("' FILE")[0]
    assert program == (
        r'.messages[].content |= if type == "array" then map(.text // empty) | join("\n")'
        " else . end"
    )


def test_a_conversation_with_other_keys_in_parquet_is_refused_with_what_helps(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, parquet(c=[[{"from": "human", "value": "q"}]]), "x.parquet")
    (complaint,) = complaints_about(path)
    assert "write it as JSONL (DataFrame.to_json(…, orient='records', lines=True))" in complaint
    assert "jq -c '.turns = (.c | map({role: .from, content: .value}))' FILE |" in complaint
