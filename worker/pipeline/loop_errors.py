"""Log what interrupts a thread that works in a loop, so that it goes on and nobody misses it."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import structlog

from worker.remote import clock
from worker.store.outage import Outages, first_line, is_unavailable

log = structlog.get_logger("evalworker")

REPEAT_SECONDS = 60.0  # between two lines about the same error


class LoopErrors:
    """The errors of one loop: a line each, but one a minute while the same one repeats."""

    def __init__(
        self, loop: str, outages: Outages, *, monotonic: Callable[[], float] = clock
    ) -> None:
        self._loop = loop
        self._outages = outages
        self._monotonic = monotonic
        self._latest: tuple[object, ...] = ()
        self._repeats_at = 0.0

    def report(self, error: Exception) -> None:
        """Report an outage of the database, and log every other error as an error.

        The others do not pass by themselves: a row that cannot be read, or a defect.
        """
        if is_unavailable(error):
            self._outages.report(error, self._loop)
            return
        now, this = self._monotonic(), (type(error), _source_line(error))
        if this == self._latest and now < self._repeats_at:
            return
        self._latest, self._repeats_at = this, now + REPEAT_SECONDS
        reason = f"{type(error).__name__}: {first_line(error)}"
        log.error(f"{self._loop}.interrupted", reason=reason, where=_source_line(error))


def _source_line(error: Exception) -> str:
    """Return the innermost line of this package, as no traceback is logged."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/worker/" in frame.filename.replace("\\", "/")]
    frame = (ours or frames)[-1]
    return f"{frame.filename.rpartition('/worker/')[2]}:{frame.lineno}"
