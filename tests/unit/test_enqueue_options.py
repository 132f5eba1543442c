"""The options of `enqueue`: what they show without a database, and how they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.cli import app

CSV = "id,question,answer,team\n1,q,a,red\n2,r,b,blue\n3,s,c,red\n4,t,d,red\n"
FITTING = ("--map", "request=question", "--map", "response=answer")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "faq.csv"
    path.write_text(CSV)
    return path


def enqueue(*arguments: object, given: str | None = None) -> Any:
    command = ["enqueue", *map(str, arguments), "--judge", "j", "--dry-run"]
    return CliRunner().invoke(app, command, input=given)


def test_a_dry_run_says_what_would_be_sent_and_makes_no_database(file: Path) -> None:
    shown = enqueue(file.name, *FITTING, "--set", "user_id=u", "--metadata", "id")
    assert shown.exit_code == 0
    assert shown.output.strip() == (
        "faq.csv: CSV separated by ','\n"
        "taken: request from question, response from answer, user_id, the same for all\n"
        "kept as metadata: id\n"
        "left out: team\n"
        "4 inputs in at least 1 batch of at most 100; nothing was enqueued\n"
        "the first ones:\n"
        '  {"request": "q", "response": "a", "user_id": "u", "metadata": {"id": "1"}}\n'
        '  {"request": "r", "response": "b", "user_id": "u", "metadata": {"id": "2"}}\n'
        '  {"request": "s", "response": "c", "user_id": "u", "metadata": {"id": "3"}}'
    )
    assert [path.name for path in file.parent.iterdir()] == ["faq.csv"]


def test_a_dry_run_counts_batches_of_the_size_that_is_set(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALWORKER_BATCH_SIZE", "3")
    shown = json.loads(enqueue(file, *FITTING, "--json").stdout)
    assert (shown["inputs"], shown["batches"]) == (4, 2)
    assert shown["taken"] == {"request": "question", "response": "answer"}
    assert shown["left_out"] == ["id", "team"]
    assert shown["first"][0] == {"request": "q", "response": "a"}


@pytest.mark.parametrize("given", ['{"request": "q"}\n', "request;response\nq;a\n"])
def test_standard_input_is_a_file(file: Path, given: str) -> None:
    shown = enqueue("-", given=given)
    assert shown.exit_code == 0
    assert "standard input: " in shown.output


def test_long_inputs_and_what_terminals_obey_are_shown_harmlessly(file: Path) -> None:
    text = "x\x1b[31m\x9b31m\u202e" + "y" * 3000
    file.write_text(f"request,\x1b[32mid\n{text},1\n")
    shown = enqueue(file).stdout
    assert "x\\u001b[31m\\x9b31m\\u202eyyy" in shown
    assert "left out: \\x1b[32mid\n" in shown
    assert len(shown) < 1000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("faq.cvs",), "there is no file faq.cvs; did you mean faq.csv?"),
        (("nowhere/faq.csv",), "there is no file nowhere/faq.csv"),
        ((".",), ". is a folder; name one file: faq.csv"),
        (("https://x.example/a.csv",), "for a URL: curl -L URL | evalworker enqueue - …"),
        (("faq.csv", "--map", "reqest=question"), "did you mean 'request'?"),
        (("faq.csv", "--map", "question"), "'question' is not of the form --map request=question"),
        (("faq.csv", "--set", "turns=x"), "--set turns=…: write it as JSON"),
        (("faq.csv", "--split", "request=;"), "only contexts and file_ids are lists of strings"),
        (("faq.csv", "--delimiter", "::"), "'::' is not one character"),
        (("faq.csv", "--encoding", "klingon"), "'klingon' is not an encoding"),
        (("faq.csv", "--encoding", "hex"), "'hex' is not an encoding"),
    ],
)
def test_wrong_use_is_refused_with_what_was_probably_meant(
    file: Path, arguments: tuple[str, ...], reason: str
) -> None:
    refused = enqueue(*arguments)
    assert refused.exit_code == 2
    assert reason in refused.output


@pytest.mark.parametrize("name", ["utf-16", "cp1252", "latin-1", "mac_roman", "UTF8", "gb18030"])
def test_encodings_are_known_by_their_usual_names(file: Path, name: str) -> None:
    file.write_bytes("request\nq\n".encode(name))
    assert enqueue(file, "--encoding", name).exit_code == 0


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("tab", "\t"), (r"\t", "\t"), (r"\x01", "\x01"), ("semicolon", ";"), ("|", "|")],
)
def test_delimiters_have_names(file: Path, name: str, delimiter: str) -> None:
    file.write_text(f"request{delimiter}response\nq{delimiter}a, b; c\n".replace("; c", ""))
    shown = json.loads(enqueue(file, "--delimiter", name, "--json").stdout)
    assert shown["first"] == [{"request": "q", "response": "a, b"}]


def test_what_should_be_looked_at_is_shown_in_lines_of_their_own(file: Path) -> None:
    file.write_text('{"by": 1, "data": [{"request": "q"}]}')
    note = "left out what is beside its array 'data': by"
    assert f"faq.csv: the JSON array 'data'\n{note}\n" in enqueue(file.name).stdout
    assert json.loads(enqueue(file.name, "--json").stdout)["notes"] == [note]
