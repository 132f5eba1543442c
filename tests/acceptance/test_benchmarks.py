"""The command that measures: every part of it runs, whatever the figures are."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import peers

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_benchmarks_print_a_row_for_each_figure() -> None:
    assert len(table("--share", "0.02")) == 21


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_million_runs_when_it_is_named() -> None:
    assert len(table("--share", "0.01", "million")) == 3


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_judge_service_is_measured_when_it_is_named() -> None:
    assert len(table("--share", "0.01", "judge")) == 2


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not all(map(find_spec, ("dbos", "procrastinate"))),
    reason="the peers are not installed: pip install -e '.[bench]'",
)
def test_the_worker_is_compared_with_each_peer() -> None:
    rows = table("--share", "0.02", "peers")
    for name in ("a script", "Dramatiq", "Procrastinate", "DBOS"):
        assert sum(name in row for row in rows) == len(peers.RESPONSES)


def test_a_comparison_without_the_peers_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match=r"need dbos and procrastinate: pip install .*bench"):
        peers.figures(0.01)


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


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_load_of_the_gateway_is_measured_on_both_databases() -> None:
    arguments = ["--clients", "20", "--seconds", "3", "--pause", "0.1"]
    command = [sys.executable, "-m", "benchmarks.gateway_load", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stderr  # 1: it was slow, or a request failed
    assert ran.stdout.count("errors 0") == 4, ran.stdout
    for name in ("postgresql", "sqlite"):
        assert f"on {name} the gateway's median response takes" in ran.stdout
