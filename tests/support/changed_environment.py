"""What a test changes around the code of a worker's process, before any of it is imported.

`started(..., prepare=[...])` runs these functions in the process before the command.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import time_machine


def hide_opentelemetry() -> None:
    """Let an import of OpenTelemetry fail, as where the extra is not installed."""
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]


def put_the_clock_back() -> None:
    _shift_the_clock(-30.0)


def put_the_clock_forward() -> None:
    _shift_the_clock(+30.0)


def _shift_the_clock(seconds: float) -> None:
    time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True).start()
