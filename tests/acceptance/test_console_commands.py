"""The console is started as its page says, and refuses to be reached by those it does not know."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.processes import ctrl_c_enabled, environment, evalworker, started, wait_until
from tests.support.servers import free_port
from worker.console.people import People, Role
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "console.md").read_text("utf-8")
(SHELL,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True)[1:] for line in SHELL.splitlines()]


def answers(url: str, text: str = "Overview") -> bool:
    try:
        return text in httpx.get(url, timeout=5).text
    except httpx.TransportError:
        return False


def serves_until_interrupted(arguments: list[str], env: Mapping[str, str], folder: Path) -> str:
    """Start a command, wait for its console, look at it, end it as Ctrl-C does."""
    url = f"http://127.0.0.1:{env['EVALWORKER_CONSOLE_PORT']}/"
    with ctrl_c_enabled(), started(*arguments, env=env, cwd=folder) as process:
        wait_until(lambda: process.poll() is not None or answers(url))
        if arguments[0] == "demo":
            wait_until(lambda: answers(f"{url}jobs", "completed"))
        process.send_signal(signal.SIGINT)
        shown = "".join(process.communicate(timeout=30))
    assert process.returncode == 0, shown
    return shown


def test_the_page_names_every_way_to_start_it() -> None:
    assert [arguments[0] for arguments in COMMANDS] == ["demo", "console", "run"]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_the_console_is_served_until_it_is_interrupted(
    arguments: list[str], sqlite_url: str, tmp_path: Path
) -> None:
    port = free_port()
    with running_sandbox(SandboxOptions()) as judge:
        env = environment(
            database_url=sqlite_url, api_url=judge.url, api_key=judge.api_key, console_port=port
        )
        if arguments[0] == "demo":
            inputs = tmp_path / "mine.jsonl"
            inputs.write_text(json.dumps({"request": "q", "response": "a", "expected_output": "a"}))
            arguments = [*arguments, "--file", str(inputs)]
        shown = serves_until_interrupted(arguments, env, tmp_path)
    assert f"http://127.0.0.1:{port}/" in shown


def test_an_address_for_others_needs_keys(sqlite_url: str) -> None:
    refused = evalworker("console", "--host", "0.0.0.0", env=environment(database_url=sqlite_url))
    assert refused.returncode == 2
    assert "EVALWORKER_CONSOLE_KEYS" in refused.stderr


def test_a_port_that_is_taken_is_named(sqlite_url: str, tmp_path: Path) -> None:
    with running_sandbox(SandboxOptions()) as other:
        port = other.url.rpartition(":")[2]
        refused = evalworker("console", "--port", port, env=environment(database_url=sqlite_url))
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr


def test_the_keys_of_the_page_are_keys() -> None:
    (keys,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    roles = {name: person.role for name, person in People(keys).by_name().items()}
    assert roles == {"vera": Role.VIEWER, "otto": Role.OPERATOR}
