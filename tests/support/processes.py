"""The worker as its users meet it: commands, processes, signals."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from worker.sandbox.server import Running

EVALWORKER = [sys.executable, "-m", "worker"]


def environment(**settings: object) -> dict[str, str]:
    """The environment of a process, with settings by their short names."""
    given = {f"EVALWORKER_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, "COLUMNS": "200", **given}


def evalworker(
    *arguments: object, env: Mapping[str, str], cwd: Path | None = None, seconds: float = 90
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [*EVALWORKER, *map(str, arguments)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@contextlib.contextmanager
def started(
    *arguments: object, env: Mapping[str, str], cwd: Path | None = None, first: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A command in the background; killed at the end of the block if it still runs.

    `first` is Python that its process runs before anything else: what a test changes in there.
    """
    program = [sys.executable, "-c", f"{first}\nfrom worker.cli import main\nmain()"]
    process = subprocess.Popen(
        [*(program if first else EVALWORKER), *map(str, arguments)],
        env=env,
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


def ends_well(process: subprocess.Popen[str], *, seconds: float) -> bool:
    """Waits for its exit status 0; what else happens is told with what the process said."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    status = process.poll()
    if status != 0:
        process.kill()
        said = process.stderr.read() if process.stderr else ""
        raise AssertionError(f"exit status {status} after at most {seconds} s; it said:\n{said}")
    return True


def account(judge: Running) -> dict[str, Any]:
    """What the sandbox says it has evaluated, over HTTP as anybody can ask it."""
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
    "ends_well",
    "environment",
    "evalworker",
    "started",
    "wait_until",
    "write_questions",
]
