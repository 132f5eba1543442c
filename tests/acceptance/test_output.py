"""Data is UTF-8 and whole whatever the terminal is, and what people read is shown as it can be."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support.shared_servers import command_client
from worker import enqueue
from worker.cli import main
from worker.cli.context import print_json

if TYPE_CHECKING:
    from worker.store.database import Database

pytestmark = pytest.mark.one_database("sqlite")

TEXT = "漢字 😀 naïve\u202e\x1b[31m"
ENCODINGS = ["cp1252", "ascii", "cp437", "utf-16"]


@pytest.fixture
def job_id(database: Database, monkeypatch: pytest.MonkeyPatch) -> UUID:
    monkeypatch.setenv("EVALWORKER_DATABASE_URL", str(database.engine.url))
    with database.engine.begin() as connection:
        return enqueue(connection, judge_id="j漢", inputs=[{"request": TEXT}], tags=["é\x1b"])


class Terminal(io.TextIOWrapper):
    """Standard output as Windows has it: a code page, and line ends of its own."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, newline="\r\n")


def output_of(monkeypatch: pytest.MonkeyPatch, *command: object, encoding: str = "cp1252") -> bytes:
    terminal = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["evalworker", *map(str, command)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    terminal.flush()
    return terminal.bytes.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_csv_and_json_are_utf8_with_their_own_line_ends(
    job_id: UUID, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = output_of(monkeypatch, "results", job_id, "--format", "csv", encoding=encoding)
    assert b"\r\r\n" not in written
    assert written.count(b"\r\n") == 2
    (row,) = csv.DictReader(io.StringIO(written.decode("utf-8"), newline=""))
    assert row["request"] == TEXT
    lines = output_of(monkeypatch, "results", job_id, "--format", "jsonl", encoding=encoding)
    assert b"\r" not in lines
    assert json.loads(lines.decode("utf-8"))["request"] == TEXT
    for command in (["status"], ["status", job_id], ["batches"]):
        document = output_of(monkeypatch, *command, "--json", encoding=encoding)
        assert document.endswith(b"\n")
        json.loads(document.decode("utf-8"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_replace_what_the_terminal_cannot_show(
    job_id: UUID, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = output_of(monkeypatch, "results", job_id, encoding=encoding).decode(encoding)
    assert r"\u202e\x1b[31m" in table
    assert "\x1b" not in table
    assert str(job_id) in output_of(monkeypatch, "status", encoding=encoding).decode(encoding)


def test_half_a_surrogate_stays_readable_json(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal("cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    print_json({"text": "a\ud800b"})
    terminal.flush()
    assert json.loads(terminal.bytes.getvalue()) == {"text": "a\ud800b"}


@pytest.mark.parametrize(
    "command",
    [
        "results JOB --format csv",
        "results JOB",
        "status --watch --every 0.1",
        "--version",
        "--help",
        "run --help",
        "judge --help",
        "judge serve --help",
    ],
)
def test_a_reader_that_has_read_enough_ends_the_command_quietly(
    database: Database, job_id: UUID, command: str
) -> None:
    with database.engine.begin() as connection:  # more than a pipe holds
        job_id = enqueue(
            connection, judge_id="j", inputs=({"request": "q" * 200} for _ in range(900))
        )
    arguments = command.replace("JOB", str(job_id)).split()
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed_pipe:
        done = subprocess.run(
            [command_client(), *arguments],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
