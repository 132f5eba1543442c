"""Schedules from seeds, one after another, and the command that runs many on all cores.

python -m tests.simulation --seed 7            one schedule: replays what failed
python -m tests.simulation --schedules 100000  that many, from a first seed of the clock's
python -m tests.simulation --seconds 3600      as many as fit into an hour
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime, tzinfo
from pathlib import Path
from random import Random
from typing import Self
from unittest import mock
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from tests.simulation import invariants
from tests.simulation.replica import SimulatedDatabase
from tests.simulation.world import BEGINNING, World, seconds_of
from worker.store.tables import metadata

APART = 1_000_000_000  # between the first seeds of two processes
ROOT = Path(__file__).parents[2]
ID_MAKERS = [
    module
    for name, module in sys.modules.items()
    if name.startswith("worker.") and getattr(module, "uuid7", None) is uuid7
]


class Simulation:
    """One database in memory for all schedules, emptied between them; a context manager."""

    world: World

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain  # all statements take SQLAlchemy's own way

    def __enter__(self) -> Self:
        with ExitStack() as exits:  # where this fails, no clock stays replaced
            self._enter(exits)
            self._exits = exits.pop_all()
        return self

    def _enter(self, exits: ExitStack) -> None:
        self._config = structlog.get_config()
        self.recording = False
        self.database = SimulatedDatabase(plain=self.plain)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        exits.callback(lambda: structlog.configure(**self._config))
        exits.callback(self.database.close)
        raw = self.database.raw
        raw.create_function("is_recording", 0, lambda: self.recording)
        for name, answer in invariants.functions(lambda: self.world).items():
            raw.create_function(name, -1, answer)
        for trigger in invariants.triggers():
            raw.execute(trigger)
        self._replace_the_clocks(exits)

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _replace_the_clocks(self, exits: ExitStack) -> None:
        """Every clock that the product reads is the world's, or that of a process in it."""
        simulation = self

        class Time:
            """Stands for the module `time`."""

            time = staticmethod(lambda: simulation.world.local_time())
            sleep = staticmethod(lambda seconds: simulation.world.sleep(seconds))

        class Datetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return cls.fromtimestamp(simulation.world.local_time(), tz)

        # There are few batches in a schedule.
        exits.enter_context(mock.patch("worker.pipeline.list_watcher.MIN_BATCHES", 1))
        exits.enter_context(mock.patch("worker.domain.polling.ENOUGH_DURATIONS", 2))
        for name, clock in (
            ("worker.remote.deadline.clock", lambda: simulation.world.monotonic()),
            ("worker.store.database.time", Time),
            ("worker.remote.responses.datetime", Datetime),
        ):
            exits.enter_context(mock.patch(name, clock))
        for module in ID_MAKERS:
            exits.enter_context(mock.patch.object(module, "uuid7", self._uuid7))

    def _uuid7(self) -> UUID:
        return self.world.uuid7()

    def run(self, rng: Random) -> World:
        """One schedule; raises where it breaks a promise."""
        self._empty()
        self.world = self.database.world = World(rng, self.database)
        self.recording = True
        try:
            self.world.run()
        finally:
            self.world.close()
            self.recording = False
        return self.world

    def run_seed(self, seed: int) -> World:
        try:
            return self.run(Random(seed))
        except BaseException as error:
            error.add_note(self.history())
            error.add_note(f"replay with: {replay(seed)}")
            raise

    def history(self) -> str:
        """What the worker wrote down, in seconds of the schedule."""
        rows = self.database.raw.execute(
            "SELECT at, event, substr(batch_id, -4), substr(job_id, -4), item_index, detail"
            " FROM eval_events ORDER BY id"
        )
        return "\n".join(
            f"{seconds_of(at) - BEGINNING:9.2f} {' '.join(str(word) for word in rest if word)}"
            for at, *rest in rows
        )

    def run_many(self, first: int, *, schedules: int | None, seconds: float | None) -> int:
        """Seeds from `first` on, until so many are done or the time is up; returns how many."""
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        seed = first
        while (schedules is None or seed < first + schedules) and time.monotonic() < until:
            self.run_seed(seed)
            seed += 1
        return seed - first

    def _empty(self) -> None:
        for table in reversed(metadata.sorted_tables):
            self.database.raw.execute(f"DELETE FROM {table.name}")


def replay(seed: int) -> str:
    return f"python -m tests.simulation --seed {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the schedule, or the first one of many")
    parser.add_argument("--schedules", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    many = given.schedules is not None or given.seconds is not None
    first = given.seed if given.seed is not None else int(time.time() * 1000)
    if many and given.processes > 1:
        return _spread(given, first)
    with Simulation() as simulation:
        began = time.monotonic()
        ran = simulation.run_many(
            first, schedules=given.schedules if many else 1, seconds=given.seconds
        )
    took = time.monotonic() - began
    print(f"{ran} schedules from seed {first} in {took:.0f} s: nothing found", flush=True)  # noqa: T201
    return 0


def _spread(given: argparse.Namespace, first: int) -> int:
    """A process per core, each with seeds of its own; the first failure is everybody's."""
    part = -(-given.schedules // given.processes) if given.schedules is not None else None
    limit = [f"--schedules={part}"] if part is not None else []
    limit += [f"--seconds={given.seconds}"] if given.seconds is not None else []
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", "--processes=1", *limit, f"--seed={seed}"],
            cwd=ROOT,
        )
        for seed in (first + number * APART for number in range(given.processes))
    ]
    return max(abs(child.wait()) for child in children)
