"""Commands are listed without being imported, and each loads only what it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from worker.cli import COMMANDS, app

LIGHT = COMMANDS.keys() - {"demo", "migrate", "run", "gateway", "console", "check", "sandbox"}
HEAVY = {"alembic", "dramatiq", "httpx", "pika", "pyarrow", "redis", "starlette", "uvicorn"}
MODULES = {f"worker.cli.{name}" for name in COMMANDS}


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
    imports = ", ".join(f"worker.cli.{name}" for name in LIGHT)
    assert not modules_after(f"import worker.admin, {imports}") & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_as_in_the_list(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert COMMANDS[name] in " ".join(shown.output.split())


def test_an_unknown_command_is_wrong_use() -> None:
    assert CliRunner().invoke(app, ["nothing"]).exit_code == 2
