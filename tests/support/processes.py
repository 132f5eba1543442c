"""Run the worker as its users do: commands, processes, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.command_server import PREPARE, command_process
from tests.support.servers import wait_until
from tests.support.shared_servers import command_address, command_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.sandbox.server import RunningSandbox

UNHANDLED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}


def environment(**settings: object) -> dict[str, str]:
    """Return the environment of a process, with settings named without their prefix."""
    given = {f"EVALWORKER_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, "COLUMNS": "200", **given}


def evalworker(
    *arguments: object, env: Mapping[str, str], cwd: Path | None = None, seconds: float = 90
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [command_client(), *map(str, arguments)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def with_the_command(folder: Path) -> dict[str, str]:
    """Return an environment in which `evalworker`, `python` and `python3` are of this checkout."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "evalworker").symlink_to(command_client())
    for name in ("python", "python3"):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (bin_folder / name).chmod(0o755)
    env = environment()
    env["PATH"] = f"{bin_folder}{os.pathsep}{env['PATH']}"
    return env


def run_shell(script: str, folder: Path, env: dict[str, str]) -> str:
    """Run a script of bash to its end, which must be good, and return its output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def started(
    *arguments: object,
    env: Mapping[str, str],
    cwd: Path | None = None,
    prepare: Sequence[Callable[[], None]] = (),
) -> Iterator[Command]:
    """Run a command in the background; kill it at the end of the block if it still runs.

    `prepare` are functions of modules in `tests.support` that its process calls before the
    command: what a test changes in there.
    """
    changes = " ".join(f"{change.__module__}:{change.__name__}" for change in prepare)
    process = Command(
        [command_client(), *map(str, arguments)],
        env={**env, PREPARE: changes},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            if process.stdout and process.stderr:  # a full pipe would keep it from ending
                process.communicate()


@contextlib.contextmanager
def ctrl_c_enabled() -> Iterator[None]:
    """Let processes that start meanwhile handle Ctrl-C.

    Tests in the background of a shell ignore it, and their children would inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Command(subprocess.Popen[str]):
    """A client of the command server. It passes on signals that it can handle; others go direct."""

    def send_signal(self, sig: int) -> None:
        command = command_process(command_address(), self.pid) if sig in UNHANDLED else None
        if command is None:
            super().send_signal(sig)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(command, sig)

    def is_stopped(self) -> bool:
        """Whether the command has got SIGSTOP; as Linux tells it."""
        command = command_process(command_address(), self.pid)
        if command is None:
            return False
        return Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def ends_well(process: subprocess.Popen[str], *, seconds: float) -> bool:
    """Wait for exit status 0; otherwise raise with what the process wrote to standard error."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    status = process.poll()
    if status != 0:
        process.kill()
        said = process.stderr.read() if process.stderr else ""
        raise AssertionError(f"exit status {status} after at most {seconds} s; it said:\n{said}")
    return True


def account(judge: RunningSandbox) -> dict[str, Any]:
    """Return the sandbox's account of what it evaluated, over HTTP as any client can."""
    answer = httpx.get(
        f"{judge.url}/sandbox/account/",
        headers={"Authorization": f"Api-Key {judge.api_key}"},
        timeout=60,
    )
    found: dict[str, Any] = answer.json()
    return found


def write_questions(path: Path, count: int) -> Path:
    path.write_text(
        "".join(
            json.dumps({"request": f"question {n}", "response": f"answer {n}"}) + "\n"
            for n in range(count)
        )
    )
    return path


__all__ = [
    "account",
    "ctrl_c_enabled",
    "ends_well",
    "environment",
    "evalworker",
    "started",
    "wait_until",
    "write_questions",
]
