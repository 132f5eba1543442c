"""Commands are listed without being imported, and each loads only what it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts.describe_commands import commands_page
from worker import __version__
from worker.cli import COMMANDS, app
from worker.cli.context import check_id_prefix

LIGHT = COMMANDS.keys() - {
    "demo",
    "migrate",
    "run",
    "gateway",
    "console",
    "check",
    "judges",
    "judge serve",
    "judge check",
    "sandbox",
}
HEAVY = {
    *("alembic", "dramatiq", "httpx", "pika", "pyarrow", "redis", "sqlalchemy.orm", "starlette"),
    "uvicorn",
}
MODULES = {f"worker.cli.{name.replace(' ', '_')}" for name in COMMANDS}


def modules_after(code: str) -> set[str]:
    """Return the names of the modules that a new process has imported after this code."""
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("arguments", "own"), [([], set()), (["status"], {"worker.cli.status"})])
def test_only_the_command_that_is_called_is_imported(arguments: list[str], own: set[str]) -> None:
    loaded = modules_after(
        "from typer.testing import CliRunner; from worker.cli import app;"
        f"assert CliRunner().invoke(app, {[*arguments, '--help']}).exit_code == 0"
    )
    assert loaded & MODULES == own
    assert not loaded & HEAVY


def test_commands_that_read_or_change_rows_load_no_broker_server_or_client() -> None:
    imports = ", ".join(f"worker.cli.{name.replace(' ', '_')}" for name in LIGHT)
    assert not modules_after(f"import worker.admin, {imports}") & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_as_in_the_list(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"])
    assert shown.exit_code == 0
    assert COMMANDS[name] in " ".join(shown.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_as_documented_whatever_the_version_of_typer(name: str) -> None:
    (documented,) = re.findall(rf"^`(evalworker {name}\b.*)`$", commands_page(), re.MULTILINE)
    shown = CliRunner().invoke(
        app, [*name.split(), "--help"], prog_name="evalworker", env={"COLUMNS": "99"}
    )
    assert re.findall(r"Usage: (.*?) *$", shown.output, re.MULTILINE) == [documented]
    for foreign in ("{", "[[", "typing", "typer", "Annotated", "object at", "bool", "list["):
        assert foreign not in shown.output.lower()


def test_the_version_is_shown() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"evalworker {__version__}\n"


@pytest.mark.parametrize(
    ("words", "completed", "own"),
    [("evalworker re", "results", ""), ("evalworker status --unt", "--until-drained", "status")],
)
def test_completion_loads_only_the_command_that_is_completed(
    words: str, completed: str, own: str
) -> None:
    env = {
        **os.environ,
        "_EVALWORKER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = (
        "import atexit, json, sys; from worker.cli import main;"
        "atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr));"
        "sys.argv = ['evalworker']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert completed in done.stdout.split()
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert loaded & MODULES == ({f"worker.cli.{own}"} if own else set())
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["{}"],
        ["--{}"],
        ["status", "{}"],
        ["status", "--{}"],
        ["status", "--every", "{}"],
        ["enqueue", "{}.jsonl", "--judge", "j"],
        ["results", "abcd", "--format", "{}"],
        ["results", "abcd", "--output", "{}"],
        ["demo", "--judge", "{}"],
        ["demo", "--file", "{}"],
        ["prune", "--older-than", "{}"],
    ],
)
def test_a_usage_error_shows_no_argument_that_a_terminal_would_obey(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    harmful = "a\x1b[31mb\x9bc\u202ed"
    (tmp_path / f"{harmful}s.jsonl").touch()  # a near name, which others may have chosen
    shown = CliRunner().invoke(app, [text.format(harmful) for text in arguments])
    assert shown.exit_code == 2
    written = re.sub(r"\x1b\[[0-9;]*m(?!b)", "", shown.output)
    assert not set("\x1b\x9b\u202e") & set(written)


def test_an_unknown_command_is_wrong_use() -> None:
    assert CliRunner().invoke(app, ["nothing"]).exit_code == 2


def test_a_port_that_cannot_be_is_wrong_use() -> None:
    assert CliRunner().invoke(app, ["judge", "serve", "--port", "99999"]).exit_code == 2


@pytest.mark.parametrize("prefix", ["01a2", "01A2189D-", "01a2189d-412d", "01a2189d412d72"])
def test_an_id_may_be_cut_anywhere(prefix: str) -> None:
    assert check_id_prefix(prefix) == prefix
