"""The tutorial and the how-to guides are done, in their order, as a reader would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from generate_docs import ROOT
from harness import Bench, FakeRemote
from processes import environment
from servers import free_port

from worker.config import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from worker.store.database import Database

DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def shell_of(page: Path, folder: Path) -> list[str]:
    """The commands of a page, once the files that it shows are in the folder."""
    commands = []
    for language, title, text in BLOCK.findall(page.read_text("utf-8")):
        if title and language != "sql":
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(text)
        elif language == "sh":
            commands.append(text)
    return commands


def run(script: str, folder: Path, env: dict[str, str]) -> str:
    """What it leaves in the background is ended with it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p) || true; wait' EXIT\n{script}"],
        cwd=folder,
        env=env,
        text=True,
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def with_commands(folder: Path) -> dict[str, str]:
    """An environment in which `evalworker` and `python3` are those of this checkout."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("evalworker", "-m worker.cli"), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    return environment() | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def test_the_tutorial_comes_to_what_it_says(tmp_path: Path) -> None:
    install, *commands = shell_of(DOCS / "tutorial.md", tmp_path)
    assert "pip install" in install  # run by .ci/run, as the README's first command
    script = "\n".join(commands).replace("8321", str(free_port()))
    script = script.replace("evalworker migrate", "until evalworker check; do :; done 2>&1\nmigrate")
    script = "\n".join(commands).replace("8321", str(free_port()))
    shown = run(script, tmp_path, with_commands(tmp_path))
    assert "requires expected_output" in shown
    engine = sa.create_engine(f"sqlite:///{tmp_path}/evalworker.db")
    (queries,) = [
        text
        for language, _, text in BLOCK.findall((DOCS / "tutorial.md").read_text("utf-8"))
        if language == "sql"
    ]
    with engine.connect() as connection:
        found = [
            connection.exec_driver_sql(query).all() for query in queries.split(";\n") if query.strip()
        ]
        answers = connection.exec_driver_sql("SELECT id FROM answers").scalars().all()
        jobs = connection.exec_driver_sql("SELECT status, metadata FROM eval_jobs ORDER BY id").all()
    engine.dispose()
    assert [len(rows) > 2 for rows in found] == [True, True, True]
    assert answers == [2]
    assert [tuple(job) for job in jobs] == [("completed", None), ("completed", '{"answer":2}')]
