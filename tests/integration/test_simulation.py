"""Hundreds of schedules under a virtual clock: nothing is lost and nothing is evaluated twice.

A failing seed is printed with the command that replays it; `python -m tests.simulation` runs as
many schedules as one likes, on all cores.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.runner import APART, ROOT, Simulation, replay
from worker.pipeline.recover import Absent

ORDINARY_SCHEDULES = 50  # of each part
# Read here: no test sees what the machine has set.
LONG_SCHEDULES = int(os.environ.get("EVALWORKER_SIMULATION_SCHEDULES", "100000"))
A_DAY = 24 * 3600


@pytest.fixture(scope="module")
def simulation() -> Iterator[Simulation]:
    with Simulation() as opened:
        yield opened


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [0, 1])  # two of pytest's processes share the work
def test_no_schedule_loses_or_doubles_anything(simulation: Simulation, part: int) -> None:
    # Other seeds in every run: what one run does not meet, the next may.
    first = int(time.time() * 1000) + part * APART
    assert simulation.run_many(first, schedules=ORDINARY_SCHEDULES, seconds=None)


@settings(max_examples=25, database=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_no_schedule_that_hypothesis_draws_loses_or_doubles_anything(
    simulation: Simulation, rng: Random
) -> None:
    """A failing one shrinks: towards fewer things that happen, and fewer of them faults."""
    simulation.run(rng)


def test_the_same_seed_is_the_same_schedule(simulation: Simulation) -> None:
    histories = []
    for _ in range(2):
        simulation.run_seed(7)
        histories.append(simulation.history())
    assert histories[0] == histories[1] != ""


def test_the_fast_engine_makes_the_same_history_as_sqlalchemys(simulation: Simulation) -> None:
    quick, plain = [], []
    for seed in range(5):
        simulation.run_seed(seed)
        quick.append(simulation.history())
    with Simulation(plain=True) as slow:
        for seed in range(5):
            slow.run_seed(seed)
            plain.append(slow.history())
    assert quick == plain


def test_a_broken_promise_is_found_and_its_seed_is_reported(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation can fail: here, who does not look before sending again."""
    monkeypatch.setattr("worker.domain.backoff.SEARCH_WAITS", (2.0,))
    monkeypatch.setattr("worker.pipeline.recover.search", lambda *_, **__: Absent())
    with pytest.raises((AssertionError, sqlite3.Error)) as failed:
        simulation.run_many(1, schedules=2000, seconds=None)
    *_, history, told = failed.value.__notes__
    assert "sent again" in history
    assert told.startswith("replay with: ")
    seed = int(told.rpartition(" ")[2])
    assert told.endswith(replay(seed))
    with pytest.raises(type(failed.value), match=str(failed.value)):
        simulation.run_seed(seed)


@pytest.mark.long
@pytest.mark.timeout(A_DAY)
def test_no_schedule_of_a_hundred_thousand_loses_or_doubles_anything() -> None:
    """On all cores; EVALWORKER_SIMULATION_SCHEDULES sets another number."""
    command = [sys.executable, "-m", "tests.simulation", f"--schedules={LONG_SCHEDULES}"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
