"""The command that measures: every part of it runs, whatever the figures are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_benchmarks_print_a_row_for_each_figure() -> None:
    assert len(table("--share", "0.02")) == 21


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_million_runs_when_it_is_asked_for() -> None:
    assert len(table("--share", "0.01", "million")) == 3


def table(*arguments: str) -> list[str]:
    """The rows of the table that the command prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    head, _, *rows = ran.stdout.splitlines()
    assert head.startswith("| figure | measured | target |")
    assert all(row.count("|") == head.count("|") for row in rows)
    return rows
