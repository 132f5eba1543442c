"""Columns of any name fill the fields of inputs, by the options that the messages suggest."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.input_files import complaints_about, inputs_of, load, options_in, parquet, write
from worker.cli.input_files.selection import WrongOption, parse_selection

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
        (
            "a.jsonl",
            json.dumps({"request": {"model": "m", "messages": TURNS}, "response": "a"}),
            {"turns": TURNS, "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps({"request": TURNS, "response": TURNS}),
            {"turns": TURNS, "response": "ho"},
        ),
        (
            "a.jsonl",
            json.dumps(
                {
                    "input": {"question": "q"},
                    "expectedOutput": {"answer": "e"},
                    "output": {"answer": "a"},
                }
            ),
            {"request": "q", "expected_output": "e", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps(
                {
                    "doc": {"question": "q", "answer": "the rule"},
                    "target": "e",
                    "resps": [["a, then more"]],
                    "filtered_resps": ["a"],
                }
            ),
            {"request": "q", "expected_output": "e", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps(
                {
                    "inputs": {"question": "q"},
                    "outputs": {"answer": "a"},
                    "reference_outputs": {"answer": "e"},
                }
            ),
            {"request": "q", "expected_output": "e", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps({"input": "q", "output": {"role": "assistant", "content": "a"}}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.jsonl",
            json.dumps({"id": 1, "inputs": {"messages": TURNS}, "outputs": CHOICES["body"]}),
            {"turns": TURNS, "response": "hi"},
        ),
        (
            "a.jsonl",
            json.dumps({"prompt": {"raw": "q", "label": "l"}, "response": {"output": "a"}}),
            {"request": "q", "response": "a"},
        ),
        (
            "a.csv",
            'input,output\n"[{""role"": ""user"", ""content"": ""hi""}]",a\n',
            {"turns": TURNS[:1], "response": "a"},
        ),
        (
            "a.csv",
            'input,output\n"{""question"": ""q""}","{""role"": ""x"", ""content"": ""a""}"\n',
            {"request": "q", "response": "a"},
        ),
        (
            "a.json",
            json.dumps([{"input": "q", "context": None, "retrieval_context": ["c"]}]),
            {"request": "q", "contexts": ["c"]},
        ),
        ("a.tsv", "request\u200b\tanswer\u2060\nq\ta\n", {"request": "q", "response": "a"}),
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


def test_a_field_that_only_some_lines_have_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": "a"}\n{"response": "b", "note": "n"}\n')
    assert load(path)[0].left_out == ["note"]


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


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("# exported\nrequest,response\nq,a\n", "more columns: add --delimiter CHARACTER\n"),
        ("request^response\nq^a\n", "more columns: add --delimiter '^'\n"),
        ("id:question\n1:q\n", "more columns: add --delimiter :\n"),
        ("2+2?,4\n3+3?,6\n", r"(printf 'request,response\n'; cat FILE) | evalworker enqueue - …"),
    ],
)
def test_a_header_without_known_names_is_refused_with_what_may_be_meant(
    tmp_path: Path, content: str, remedy: str
) -> None:
    (complaint,) = complaints_about(write(tmp_path, content, "x.csv"))
    assert remedy in complaint
    assert "if another line is the header: tail -n +2 FILE | evalworker enqueue - …" in complaint


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


def test_a_long_text_in_place_of_a_name_is_refused_soon(tmp_path: Path) -> None:
    (complaint,) = complaints_about(write(tmp_path, "x" * 2_000_000, "x.txt"))
    assert "needs `request`" in complaint


def test_lists_are_refused_with_the_command_that_names_their_parts(tmp_path: Path) -> None:
    (complaint,) = complaints_about(write(tmp_path, '["q", "a"]\n' * 3))
    assert complaint.startswith(
        "line 1: must be an object, not a list: name its parts: jq -c '{req"
    )


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


def test_content_is_not_taken_for_contexts(tmp_path: Path) -> None:
    path = write(tmp_path, "request,response,content\nq,a,c\n", "x.csv")
    assert load(path)[0].left_out == ["content"]


def test_the_answer_of_the_data_set_is_never_taken_for_that_of_the_model(tmp_path: Path) -> None:
    content = json.dumps({"doc": {"question": "q", "answer": "e"}, "output": "a"})
    (complaint,) = complaints_about(write(tmp_path, content))
    assert options_in([complaint]) == [
        *("--map", "request=doc.question"),
        *("--map", "response=output"),
        *("--map", "expected_output=doc.answer"),
    ]


def test_a_dot_leads_into_cells_that_hold_json(tmp_path: Path) -> None:
    path = write(tmp_path, 'input,id\n"{""a"": [""q""]}",1\n"{""a"": [""r""]}",2\n', "x.csv")
    assert inputs_of(path, "--map", "request=input.a.0") == [{"request": "q"}, {"request": "r"}]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (
            'input,output\n"[{""role"": ""user"", ""content"": ""hi""}]",a\n',
            "the first request, from input, is JSON and taken as text: "
            "to take its messages, add --map turns=input",
        ),
        (
            'input,output\n"{""question"": ""q""}",a\n',
            "the first request, from input, is JSON and taken as text: "
            "to take a part of it, add --map request=input.question",
        ),
    ],
)
def test_json_that_is_taken_as_text_is_named(tmp_path: Path, content: str, note: str) -> None:
    path = write(tmp_path, content, "x.csv")
    options = ("--map", "request=input", "--map", "response=output")
    assert load(path, *options)[0].notes == [note]
    assert load(write(tmp_path, "input,output\n[1],a\n", "x.csv"), *options)[0].notes == []


def test_a_column_that_may_be_the_request_is_named_where_none_is_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"prompt": {"raw": "q"}, "response": {"output": "a"}}))
    options = ("--map", "response=response.output")
    note = "no column fills request; to take one, add: --map request=prompt.raw"
    assert load(path, *options)[0].notes == [note]
    assert load(path, *options, "--ignore", "prompt.raw")[0].notes == []


def test_prose_stays_whole_by_the_first_option_that_is_suggested(tmp_path: Path) -> None:
    path = write(tmp_path, 'request,contexts\nq,"Lima; a city.\nIn Peru."\n', "x.csv")
    (complaint,) = complaints_about(path)
    assert r"add --split contexts='\0' to take a text as one, or --split contexts='\n'" in complaint
    (value,) = inputs_of(path, "--split", r"contexts=\0")
    assert value["contexts"] == ["Lima; a city.\nIn Peru."]


def test_numbers_become_texts_as_they_are_written(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": 1.10, "expected_output": 1e2, "score": 1.10}')
    maps = ("--map", "request=request", "--map", "expected_output=expected_output")
    (value,) = inputs_of(path, *maps, "--metadata", "score")
    assert json.dumps(value["metadata"]) == '{"score": 1.1}'
    assert (value["request"], value["expected_output"]) == ("1.10", "1e2")


def test_a_table_without_a_header_gets_one_with_its_own_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path, "2+2?\t4\tx\n3+3?\t6\ty\n", "x.tsv")
    (complaint,) = complaints_about(path)
    command = complaint.rpartition("if there is none: (")[2].partition("; cat FILE)")[0]
    header = subprocess.check_output(command, shell=True, text=True)
    assert header == "request\tresponse\tcolumn 3\n"
    values = inputs_of(write(tmp_path, header + path.read_text(), "x.tsv"))
    assert values[0] == {"request": "2+2?", "response": "4"}


def test_an_answer_that_is_json_itself_is_suggested_as_a_whole(tmp_path: Path) -> None:
    path = write(tmp_path, 'question,answer\nq,"{""city"": ""Lima""}"\nr,[1]\n', "x.csv")
    options = options_in(complaints_about(path))
    assert options == ["--map", "request=question", "--map", "response=answer"]
    assert inputs_of(path, *options)[0]["response"] == '{"city": "Lima"}'
