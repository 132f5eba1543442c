"""What a test changes around the clock of a worker's process.

`started(..., prepare=[...])` runs these functions in the process before the command.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import time_machine


def put_the_clock_back() -> None:
    _shift_the_clock(-30.0)


def put_the_clock_forward() -> None:
    _shift_the_clock(+30.0)


def _shift_the_clock(seconds: float) -> None:
    time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True).start()
