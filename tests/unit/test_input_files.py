"""Files as people have them load at the first or second attempt, guided by the messages alone."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import errno
import gzip
import io
import json
import lzma
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.cli.input_files.charset import guessed_encoding
from worker.cli.input_files.complaints import SHOWN
from worker.cli.input_files.input_file import open_input_file
from worker.cli.input_files.json_lines import JsonLines
from worker.cli.input_files.record import Record
from worker.cli.input_files.selection import Selection, WrongOption, parse_selection
from worker.errors import EvalWorkerError, InvalidInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f():",
    "canonical_solution": "pass",
    "test": "",
}
RAGAS = {"user_input": "q", "response": "a", "retrieved_contexts": ["c", "d"], "reference": "r"}
TRUTHFUL = 'Type,Question,Best Answer,Source\nMisc,"What, then?",Nothing,https://x.example\n'
CHOICES = {"status_code": 200, "body": {"id": "x", "choices": [{"message": {"content": "hi"}}]}}


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.jsonl", '{"request": "q"}', {"request": "q"}),
        ("a.json", '[\n {"request": "q"}\n]\n', {"request": "q"}),
        ("a.json", '{"request": "q",\n "turns": []}', {"request": "q", "turns": []}),
        ("a.json", '{"version": 1, "data": [{"request": "q"}]}', {"request": "q"}),
        ("a.json", '{"n": {"m": 1},\n"examples": [{"request": "q"}]}', {"request": "q"}),
        ("a.json", '{"odd": [{"request": "q"}]}', {"request": "q"}),
        ("a.jsonl", '{"request": "q"}{"request": "r"}\n{"request": "s"}', {"request": "q"}),
        ("a.jsonl", '{"request": "q"}\r{"request": "r"}\r', {"request": "q"}),
        ("a.jsonl", '{\n"request": "q"\n}\n{\n"request": "r"\n}\n', {"request": "q"}),
        ("a.jsonl.gz", gzip.compress(b'{"request": "q"}'), {"request": "q"}),
        ("a.jsonl.bz2", bz2.compress(b'{"request": "q"}'), {"request": "q"}),
        ("a.csv.xz", lzma.compress(b"request\nq\n"), {"request": "q"}),
        (
            "a.jsonl.zst",
            pa.compress(b'{"request": "q"}', codec="zstd", asbytes=True),
            {"request": "q"},
        ),
        ("a", gzip.compress(b"request,response\nq,a\n"), {"request": "q", "response": "a"}),
        ("a.csv", "request;response\nq;a, b\n", {"request": "q", "response": "a, b"}),
        ("a.csv", "request|response\nq|a\n", {"request": "q", "response": "a"}),
        ("a.tsv", "request\tresponse\nq, r\ta\n", {"request": "q, r", "response": "a"}),
        ("a.txt", "request\tresponse\nq\ta\n", {"request": "q", "response": "a"}),
        ("a.csv", "sep=;\r\nrequest;response\r\nq;a\r\n", {"request": "q", "response": "a"}),
        ("a.csv", '"sep=|"\nrequest|response\nq|"a;b"\n', {"request": "q", "response": "a;b"}),
        ("a.csv", 'request, response\nq, "a, b"\n', {"request": "q", "response": "a, b"}),
        ("a.csv", 'request,response\nq,  "a, b"\n', {"request": "q", "response": "a, b"}),
        ("a.csv", "request,response\rq,a\r", {"request": "q", "response": "a"}),
        ("a.csv", "request,response\r\nq,a\r\n\x1a", {"request": "q", "response": "a"}),
        ("a.jsonl", '{"request": "q"}\r\n\x1a\x1a', {"request": "q"}),
        ("a.csv", "\ufeffrequest,response\nq,a\n", {"request": "q", "response": "a"}),
        ("a.csv", '\ufeff"request","response"\nq,a\n', {"request": "q", "response": "a"}),
        (
            "a.csv",
            codecs.BOM_UTF16_LE + "request\tresponse\r\nü\t€".encode("utf-16-le"),
            {"request": "ü", "response": "€"},
        ),
        (
            "a.jsonl",
            codecs.BOM_UTF16_BE + '{"request": "ü"}\r\n'.encode("utf-16-be"),
            {"request": "ü"},
        ),
        ("a.csv", codecs.BOM_UTF32_LE + "request,x\nü,".encode("utf-32-le"), {"request": "ü"}),
        ("a.json", '[{"request": "ü"}]'.encode("utf-16-le"), {"request": "ü"}),
        (
            "a.parquet",
            parquet(request=["q"], contexts=[["c"]]),
            {"request": "q", "contexts": ["c"]},
        ),
        (
            "a.csv",
            'request,tools\nq,"[{""name"": ""f""}]"\n',
            {"request": "q", "tools": [{"name": "f"}]},
        ),
    ],
    ids=lambda part: part if isinstance(part, str) and part.startswith("a") else "",
)
def test_files_with_the_fields_of_the_api_load_as_they_are(
    tmp_path: Path, name: str, content: bytes | str, first: dict[str, Any]
) -> None:
    assert inputs_of(write(tmp_path, content, name))[0] == first


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.csv", TRUTHFUL, {"request": "What, then?", "response": "Nothing"}),
        (
            "a.jsonl",
            json.dumps({"question": "q", "answer": "a"}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.jsonl.gz",
            gzip.compress(json.dumps(HUMAN_EVAL).encode()),
            {"request": "def f():", "response": "pass"},
        ),
        (
            "a.json",
            json.dumps([{"instruction": "i", "output": "o", "generator": "g"}] * 2, indent=2),
            {"request": "i", "response": "o"},
        ),
        (
            "a.jsonl",
            json.dumps(RAGAS),
            {"request": "q", "response": "a", "contexts": ["c", "d"], "expected_output": "r"},
        ),
        (
            "a.csv",
            "Frage;Antwort\nWie groß?;Größer\n".encode("cp1252"),
            {"request": "Wie groß?", "response": "Größer"},
        ),
        (
            "a.csv",
            "Frage;Erwartete Antwort;Antwort\nq;e;a\n",
            {"request": "q", "expected_output": "e", "response": "a"},
        ),
        ("a.tsv", "pregunta\trespuesta\n¿Qué?\tSí\n", {"request": "¿Qué?", "response": "Sí"}),
        (
            "a.csv",
            "вопрос;ответ\nКак тебя зовут?;Меня зовут Анна\n".encode("cp1251"),
            {"request": "Как тебя зовут?", "response": "Меня зовут Анна"},
        ),
        (
            "a.csv",
            "質問,回答\n日本の首都は何ですか,東京です\n".encode("shift_jis"),
            {"request": "日本の首都は何ですか", "response": "東京です"},
        ),
        (
            "a.csv",
            "question,answer\rÇa va?,Très bien\r".encode("mac_roman"),
            {"request": "Ça va?", "response": "Très bien"},
        ),
        ("a.csv", 'sep=;\r\nFrage;Antwort\r\nq;"a;b"\r\n', {"request": "q", "response": "a;b"}),
        (
            "a.csv",
            "Request,RESPONSE,Expected Output\nq,a,e\n",
            {"request": "q", "response": "a", "expected_output": "e"},
        ),
        ("a.jsonl", json.dumps({"messages": TURNS}), {"turns": TURNS}),
        ("a.csv", ",question,answer\n0,q,a\n", {"request": "q", "response": "a"}),
        (
            "a.jsonl",
            json.dumps({"id": 1, "inputs": {"question": "q"}, "outputs": {"answer": "a"}}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps({"question": 5, "answer": True}),
            {"request": "5", "response": "true"},
        ),
        (
            "a.jsonl",
            json.dumps({"request": "q", "response": 1.5}),
            {"request": "q", "response": "1.5"},
        ),
        (
            "a.jsonl",
            json.dumps({"request": "q", "response": ["a", "b"]}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps({"request": "q", "response": CHOICES}),
            {"request": "q", "response": "hi"},
        ),
        (
            "a.json",
            json.dumps({"features": [{"n": 1}], "rows": [{"row": {"question": "q"}}]}),
            {"request": "q"},
        ),
        (
            "a.csv",
            "request,response,contexts\nq,a,c|d\n",
            {"request": "q", "response": "a", "contexts": ["c", "d"]},
        ),
        (
            "a.csv",
            'question,answer,contexts\nq,a,"c\nd"\n',
            {"request": "q", "response": "a", "contexts": ["c", "d"]},
        ),
        (
            "a.jsonl",
            json.dumps({"request": "q", "contexts": "only one"}),
            {"request": "q", "contexts": ["only one"]},
        ),
        (
            "a.jsonl",
            json.dumps({"request": "q", "respnse": "a"}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.csv",
            "request,answer,ground_truth\nq,a,g\n",
            {"request": "q", "response": "a", "expected_output": "g"},
        ),
        (
            "a.parquet",
            parquet(question=["q"], answer=[7], id=[1]),
            {"request": "q", "response": "7"},
        ),
        ("a.csv", "質問,回答\nq,a\n".encode("shift_jis"), {"request": "q", "response": "a"}),
        (
            "a.csv",
            "pytanie;odpowiedź\nJak?;Źle\n".encode("cp1250"),
            {"request": "Jak?", "response": "Źle"},
        ),
        (
            "a.jsonl",
            json.dumps({"question": "q", "answer": ["a", "b"]}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps({"input": TURNS, "ideal": "ho"}),
            {"turns": TURNS, "expected_output": "ho"},
        ),
        (
            "a.jsonl",
            json.dumps({"turns": ["Write.", "Rewrite."], "reference": []}),
            {"request": "Write."},
        ),
        (
            "a.json",
            json.dumps([{"instruction": "i", "context": "c", "response": "r"}]),
            {"request": "i", "contexts": ["c"], "response": "r"},
        ),
        (
            "a.csv",
            "session_id,input,last_assistant\ns,q,a\n",
            {"session_id": "s", "request": "q", "response": "a"},
        ),
    ],
    ids=lambda part: part if isinstance(part, str) and part.startswith("a") else "",
)
def test_files_with_other_names_load_with_the_options_that_the_messages_suggest(
    tmp_path: Path, name: str, content: bytes | str, first: dict[str, Any]
) -> None:
    path = write(tmp_path, content, name)
    complaints = complaints_about(path)
    assert len("\n".join(complaints).splitlines()) <= 6
    assert inputs_of(path, *options_in(complaints))[0] == first


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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "X.CSV"])
def test_line_ends_and_a_byte_order_mark_change_nothing(
    tmp_path: Path, end: str, mark: bytes, name: str
) -> None:
    header = "request" if name.lower().endswith(".csv") else '{"request": "one"}'
    second = "two" if name.lower().endswith(".csv") else '{"request": "two"}'
    path = write(tmp_path, mark + f"{header}{end}{second}{end}".encode(), name)
    assert [value["request"] for value in inputs_of(path)][-1] == "two"


def test_other_columns_are_left_out_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "a", "model": "m", "response": null, "is_correct": true}\n')
    checked, inputs = load(path)
    assert checked.left_out == ["is_correct", "model"]
    assert inputs == [{"request": "a"}]
    assert load(path, "--ignore", "model")[0].left_out == ["is_correct"]


def test_an_unnamed_column_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, ",request,\n0,q,x\n", "x.csv")
    assert load(path)[0].left_out == ["column 1", "column 3"]
    (value,) = inputs_of(path, "--metadata", "column 1")
    assert value == {"request": "q", "metadata": {"column 1": "0"}}


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
        (
            b'{"request": "a",}',
            "is not JSON: Expecting property name enclosed in double quotes (column 17): a comma",
        ),
        (b'{"request": "a\tb"}', "is not JSON: Invalid control character at (column 15): json"),
        (b'"text"', "must be an object, not a string"),
        (b'{"request": "\xff"}', "is not UTF-8 (byte 14)"),
        (b'{"request": "\\u0000"}', "request contains a NUL character"),
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


def test_a_field_that_only_some_lines_have_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "a"}\n{"response": "b", "note": "n"}\n')
    assert load(path)[0].left_out == ["note"]


def test_cells_of_csv_hold_strings_or_json_or_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["request", " contexts ", "functions", "turns", "expected_output", "model"])
    writer.writerow(['says "a,b"\nand more', '["c"]', '[{"f": 1}]', "", "", "m"])
    path = write(tmp_path, "\n" + out.getvalue(), "x.csv")
    checked, inputs = load(path)
    assert checked.left_out == ["model"]
    assert inputs == [
        {"request": 'says "a,b"\nand more', "contexts": ["c"], "functions": [{"f": 1}]}
    ]


def test_lines_of_csv_are_counted_over_quoted_newlines(tmp_path: Path) -> None:
    content = 'request,contexts\n"one\ntwo\nthree",\n\nok,\nbad,not json\nbad,"[1]"\na,b,c\n,\nd\n'
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


def test_a_delimiter_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "request^response\nq, r;s^a\n", "x.csv")
    assert inputs_of(path, "--delimiter", "^") == [{"request": "q, r;s", "response": "a"}]


def test_a_delimiter_within_names_does_not_mislead(tmp_path: Path) -> None:
    path = write(tmp_path, "request;response (a, b or c)\nWhich, if any?;a\nWho?;b\n", "x.csv")
    assert load(path, "--map", "response=response (a, b or c)")[1][0]["response"] == "a"


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
def test_a_text_can_be_large(tmp_path: Path, name: str) -> None:
    long = "x" * 500_000
    content = f"request\n{long}\n" if name == "x.csv" else json.dumps([{"request": long}])
    assert inputs_of(write(tmp_path, content, name)) == [{"request": long}]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.json"])
def test_progress_counts_bytes_up_to_the_size_of_the_file(tmp_path: Path, name: str) -> None:
    content = {"x.csv": "request\n" + "x\n" * 2000, "x.jsonl": GOOD * 2000}.get(name)
    path = write(tmp_path, content or json.dumps([{"request": "a"}] * 2000), name)
    done: list[int] = []
    with open_input_file(path) as file:
        file.check(done.append)
    assert len(done) > 2
    assert done == sorted(done)
    assert done[-1] == path.stat().st_size


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ({"contexts": '["c", "d"]'}, "jq -c '.contexts |= fromjson' FILE | evalworker enqueue - …"),
        ({"contexts": "['c', 'd']"}, 'write ["first", "second"], as json.dumps() does'),
        ({"contexts": "c###d"}, "add --split contexts='###'"),
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


def test_a_conversation_with_other_keys_is_refused_with_the_command_that_renames_them(
    tmp_path: Path,
) -> None:
    record = {"id": 1, "conversations": [{"from": "human", "value": "q"}]}
    (complaint,) = complaints_about(write(tmp_path, json.dumps([record]), "x.json"))
    program = ".[] | .turns = (.conversations | map({role: .from, content: .value}))"
    assert f"jq -c '{program}' FILE | evalworker enqueue - …" in complaint


def test_inputs_deep_in_the_records_are_named_by_their_path(tmp_path: Path) -> None:
    record = {"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q"}]}]}
    (complaint,) = complaints_about(write(tmp_path, json.dumps({"data": [record]}), "x.json"))
    assert "jq -c '.data[] | .paragraphs[].qas[]' FILE | evalworker enqueue - …" in complaint


def test_texts_are_refused_with_the_command_that_names_them(tmp_path: Path) -> None:
    (complaint,) = complaints_about(write(tmp_path, '["q", "r"]', "x.json"))
    assert "jq -c '.[] | {request: .}' FILE | evalworker enqueue - …" in complaint


def test_a_damaged_text_in_utf8_is_not_taken_for_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "request\nStraße\n".encode() * 9 + b"Stra\xdfe\n", "x.csv")
    (complaint,) = complaints_about(path)
    assert complaint.startswith("line 19: is not UTF-8 (byte 5), but most of the text is: correct")
    # These words are GBK, and by chance valid UTF-8.
    path = write(tmp_path, "问题,答案\n联通,中国的首都是哪里\n".encode("gbk"), "x.csv")
    assert "--encoding gb18030" in complaints_about(path)[0]


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("# exported\nrequest,response\nq,a\n", "more columns: add --delimiter CHARACTER\n"),
        ("request^response\nq^a\n", "more columns: add --delimiter '^'\n"),
        ("id:question\n1:q\n", "more columns: add --delimiter :\n"),
        ("2+2?,4\n3+3?,6\n", "(echo request,response; cat FILE) | evalworker enqueue - …"),
    ],
)
def test_a_header_without_known_names_is_refused_with_what_may_be_meant(
    tmp_path: Path, content: str, remedy: str
) -> None:
    (complaint,) = complaints_about(write(tmp_path, content, "x.csv"))
    assert remedy in complaint
    assert "if another line is the header: tail -n +2 FILE | evalworker enqueue - …" in complaint


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


def test_a_table_that_is_drawn_inside_of_a_text_is_text(tmp_path: Path) -> None:
    text = "first\n|---|---|\n"
    assert inputs_of(write(tmp_path, f'request\n"{text}"\n', "x.csv")) == [{"request": text}]


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


def test_utf_16_may_be_named_where_no_mark_says_its_order(tmp_path: Path) -> None:
    for order in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path, "request\nquestion\n".encode(order), "x.csv")
        assert inputs_of(path, "--encoding", "utf-16") == [{"request": "question"}]


def test_files_with_byte_order_marks_may_be_joined(tmp_path: Path) -> None:
    marked = codecs.BOM_UTF8 + b'{"request": "q"}\n'
    assert inputs_of(write(tmp_path, marked * 2)) == [{"request": "q"}] * 2


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


def test_the_messages_of_an_only_record_are_its_conversation(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    (complaint,) = complaints_about(write(tmp_path, json.dumps({"id": "1", "body": body})))
    assert "--map turns=body.messages" in complaint


def test_metadata_that_is_no_object_is_refused_where_a_column_is_kept_too(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "q", "metadata": "m", "id": 7}')
    (complaint,) = complaints_about(path, "--metadata", "id")
    assert "metadata must be an object" in complaint


def test_a_split_of_what_no_column_fills_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "request,ctx\nq,a|b\n", "x.csv")
    (complaint,) = complaints_about(path, "--split", "contexts=|", "--ignore", "ctx")
    assert complaint.startswith("no column fills contexts: add --map contexts=COLUMN")


def test_times_that_python_cannot_hold_are_read_from_parquet(tmp_path: Path) -> None:
    times = {
        "nanoseconds": pa.array([2**60 + 1], pa.timestamp("ns")),
        "far": pa.array([2**61], pa.timestamp("us")),
    }
    pq.write_table(pa.table({"request": ["q"], **times}), tmp_path / "x.parquet")
    (value,) = inputs_of(tmp_path / "x.parquet", "--metadata", "nanoseconds")
    assert value["metadata"] == {"nanoseconds": "2006-07-14 23:58:24.606846977"}


def test_a_column_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["q"]), pa.array(["r"])], names=["request", "request"])
    pq.write_table(table, tmp_path / "x.parquet")
    (complaint,) = complaints_about(tmp_path / "x.parquet")
    assert complaint.startswith("schema: names a column twice: request")


def test_a_long_text_in_place_of_a_name_is_refused_soon(tmp_path: Path) -> None:
    (complaint,) = complaints_about(write(tmp_path, "x" * 2_000_000, "x.txt"))
    assert "needs `request`" in complaint


def test_a_key_twice_in_the_json_of_a_cell_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 'request,functions\nq,"[{""a"": 1, ""a"": 2}]"\n', "x.csv")
    assert complaints_about(path) == ['line 2: functions has the key "a" twice']


def test_lists_are_refused_with_the_command_that_names_their_parts(tmp_path: Path) -> None:
    (complaint,) = complaints_about(write(tmp_path, '["q", "a"]\n' * 3))
    assert complaint.startswith(
        "line 1: must be an object, not a list: name its parts: jq -c '{req"
    )


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


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """Return a function that makes a named pipe, into which a thread writes."""
    writers: list[threading.Thread] = []

    def made(content: bytes) -> Path:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(content,)))
        writers[0].start()
        return path

    yield made
    for writer in writers:
        writer.join()


@pytest.mark.parametrize(
    "content",
    [b"request\nq\n", b'[{"request": "q"}]', gzip.compress(b'{"request": "q"}')],
    ids=["CSV", "JSON", "gzip"],
)
def test_a_pipe_is_read_as_a_file(pipe: Callable[[bytes], Path], content: bytes) -> None:
    assert inputs_of(pipe(content)) == [{"request": "q"}]


def test_a_pipe_in_another_encoding_is_refused_with_what_helps(
    pipe: Callable[[bytes], Path],
) -> None:
    (complaint,) = complaints_about(pipe("request\nStraße\n".encode("cp1252")))
    assert options_in([complaint]) == ["--encoding", "cp1252"]


def test_a_copy_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full.open("r+b", buffering=0))
    path = write(tmp_path, gzip.compress(GOOD.encode() * 99_999))
    with pytest.raises(EvalWorkerError, match=r"does not fit in .* set TMPDIR to a folder"):
        load(path)


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("Schön „gut“", "cp1252", "cp1252"),
        ("El Niño, ¿cómo estás?", "latin-1", "cp1252"),
        ("Ça va\rTrès bien\r", "mac_roman", "mac_roman"),
        ("질문,답변\n한국의 수도는,서울입니다", "euc_kr", "cp949"),
    ],
)
def test_an_encoding_is_guessed(text: str, encoding: str, guess: str) -> None:
    assert guessed_encoding(text.encode(encoding)) == guess


def test_another_encoding_than_the_named_one_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"request\nok\n\x81\x8d\n", "x.csv")
    (complaint,) = complaints_about(path, "--encoding", "cp1252")
    assert complaint.startswith("line 3: is not cp1252: ")


def test_options_choose_what_fills_a_field(tmp_path: Path) -> None:
    record = {
        "request": "own",
        "id": 7,
        "question": {"text": "q"},
        "docs": "c ; d;",
        "response": "a",
    }
    path = write(tmp_path, json.dumps(record))
    options = [
        *("--map", "request=question.text", "--map", "contexts=docs", "--split", "docs=;"),
        *("--set", "system_prompt=Be brief.", "--set", 'file_ids=["f"]'),
        *("--metadata", "id", "--metadata", "question.text", "--ignore", "response"),
    ]
    checked, inputs = load(path, *options)
    assert inputs == [
        {
            "request": "q",
            "contexts": ["c", "d"],
            "system_prompt": "Be brief.",
            "file_ids": ["f"],
            "metadata": {"id": 7, "question.text": "q"},
        }
    ]
    assert checked.left_out == ["request"]
    assert checked.taken == {"request": "question.text", "contexts": "docs"}


def test_metadata_of_the_file_and_kept_columns_are_joined(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "q", "metadata": {"run": 1}, "id": 7}')
    assert inputs_of(path)[0]["metadata"] == {"run": 1}
    assert inputs_of(path, "--metadata", "id")[0]["metadata"] == {"run": 1, "id": 7}


def test_metadata_of_parquet_is_json(tmp_path: Path) -> None:
    when = pa.array([0], pa.timestamp("us"))
    content = parquet(request=["q"], when=when, raw=[b"\xff"], parts=[{"a": [1]}])
    kept = ("--metadata", "when", "--metadata", "raw", "--metadata", "parts")
    (value,) = inputs_of(write(tmp_path, content, "x.parquet"), *kept)
    assert value["metadata"] == {"when": "1970-01-01T00:00:00", "raw": "\\xff", "parts": {"a": [1]}}


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
@pytest.mark.parametrize("option", [("--map", "request=reqest"), ("--metadata", "reqest")])
def test_a_column_that_is_not_there_is_named_with_the_near_one(
    tmp_path: Path, name: str, option: tuple[str, str]
) -> None:
    content: bytes | str = "request,response\nq,a\n"
    if name == "x.jsonl":
        content = '{"request": "q", "response": "a"}\n'
    elif name == "x.parquet":
        content = parquet(request=["q"], response=["a"])
    (complaint,) = complaints_about(write(tmp_path, content, name), *option)
    assert "has no column 'reqest' (did you mean 'request'?)" in complaint


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"maps": ["request"]}, "'request' is not of the form --map request=question"),
        ({"maps": ["question=request"]}, "the input field comes first: --map request=question"),
        ({"maps": ["reqest=a"]}, "did you mean 'request'?"),
        ({"maps": ["request=a", "request=b"]}, "--map request=… is given twice"),
        ({"maps": ["request=a"], "sets": ["request=b"]}, "request is given by --map and by --set"),
        ({"sets": ["judge=x"]}, "'judge' is not an input field of the judge API: contexts, "),
        ({"sets": ["contexts=x"]}, """write it as JSON, such as '["first", "second"]'"""),
        ({"sets": ["contexts=[1]"]}, "--set: contexts[0] must be a string, not a number"),
        ({"splits": ["ctx=|"]}, "are lists of strings; for a column, add --map contexts=ctx"),
        ({"sets": ["turns=x"]}, "--set turns=…: write it as JSON"),
        ({"splits": ["request=|"]}, "only contexts and file_ids are lists of strings"),
    ],
)
def test_options_that_cannot_be_used_say_why(options: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(WrongOption) as caught:
        parse_selection(**options)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.json", "x.jsonl.gz", "x.parquet"])
def test_a_large_file_is_read_in_constant_memory(tmp_path: Path, name: str) -> None:
    count, text = 3000, "x" * 2000  # 6 MB
    line = json.dumps({"request": text}) + "\n"
    content = {
        "x.csv": "request\n" + f"{text}\n" * count,
        "x.json": json.dumps([{"request": text}] * count),
    }.get(name, line * count)
    data = content.encode()
    if name == "x.parquet":  # of texts that are not compressed to nothing
        data = parquet(request=[os.urandom(1000).hex() for _ in range(count)])
    path = write(tmp_path, gzip.compress(data, 1) if name.endswith(".gz") else data, name)
    with contextlib.ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        file = stack.enter_context(open_input_file(path, Selection()))
        assert file.check().inputs == count
        assert sum(1 for _ in file.inputs()) == count
        _, peak = tracemalloc.get_traced_memory()
    assert peak < 3_000_000
