"""Files as people have them load at the first or second attempt, guided by the messages alone."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
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
    options_in,
    parquet,
    write,
)
from worker.cli.input_files.charset import guessed_encoding
from worker.cli.input_files.input_file import open_input_file
from worker.cli.input_files.selection import Selection


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
        ("a.jsonl", '\x1e{"request": "q", "response": "a"}\n', {"request": "q", "response": "a"}),
        ("a.csv", "\ufeffrequest,response\nq,a\n", {"request": "q", "response": "a"}),
        ("a.csv", '\ufeff"request","response"\nq,a\n', {"request": "q", "response": "a"}),
        ("a.csv", '\ufeff\ufeff"request","response"\nq,a\n', {"request": "q", "response": "a"}),
        ("a.csv", "request\u200b,\u00a0response\nq,a\n", {"request": "q", "response": "a"}),
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


def test_a_table_that_is_drawn_inside_of_a_text_is_text(tmp_path: Path) -> None:
    text = "first\n|---|---|\n"
    assert inputs_of(write(tmp_path, f'request\n"{text}"\n', "x.csv")) == [{"request": text}]


def test_utf_16_may_be_named_where_no_mark_says_its_order(tmp_path: Path) -> None:
    for order in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path, "request\nquestion\n".encode(order), "x.csv")
        assert inputs_of(path, "--encoding", "utf-16") == [{"request": "question"}]


def test_files_with_byte_order_marks_may_be_joined(tmp_path: Path) -> None:
    marked = codecs.BOM_UTF8 + b'{"request": "q"}\n'
    assert inputs_of(write(tmp_path, marked * 2)) == [{"request": "q"}] * 2


def test_times_that_python_cannot_hold_are_read_from_parquet(tmp_path: Path) -> None:
    times = {
        "nanoseconds": pa.array([2**60 + 1], pa.timestamp("ns")),
        "far": pa.array([2**61], pa.timestamp("us")),
    }
    pq.write_table(pa.table({"request": ["q"], **times}), tmp_path / "x.parquet")
    (value,) = inputs_of(tmp_path / "x.parquet", "--metadata", "nanoseconds")
    assert value["metadata"] == {"nanoseconds": "2006-07-14 23:58:24.606846977"}


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


@pytest.mark.parametrize("other", ["train", "skipped", "data"])
def test_several_arrays_of_inputs_are_not_taken_for_one(tmp_path: Path, other: str) -> None:
    content = json.dumps({other: [{"prompt": "q"}], "test": [{"prompt": "r"}]})
    (complaint,) = complaints_about(write(tmp_path, content, "x.json"))
    assert complaint.startswith(f"its object has several arrays of objects: {other}, test")
    assert f"take one of them: jq -c '.{other}[]' FILE |" in complaint
    assert f"or all: jq -c '.{other}[], .test[]' FILE |" in complaint


def test_what_is_beside_an_array_of_inputs_is_named_with_the_option_that_takes_it(
    tmp_path: Path,
) -> None:
    content = {"system_prompt": "Be brief", "by": 1, "contexts": ["c"], "data": [{"request": "q"}]}
    path = write(tmp_path, json.dumps(content), "x.json")
    assert load(path)[0].notes == [
        "left out what is beside its array 'data': system_prompt, by, contexts; "
        "to give it to all inputs: --set system_prompt='Be brief' --set contexts=VALUE"
    ]
    given = ("--set", "system_prompt=Be brief", "--set", 'contexts=["c"]')
    assert load(path, *given)[0].notes == ["left out what is beside its array 'data': by"]


def test_empty_rows_of_a_table_are_left_out_and_counted(tmp_path: Path) -> None:
    checked, inputs = load(write(tmp_path, "request,id\nq,1\n, \nr,2\n,\n,\n", "x.csv"))
    assert [value["request"] for value in inputs] == ["q", "r"]
    assert checked.notes == ["left out 3 empty rows"]
