"""Limit how many bytes of responses are read, decoded and recorded at a time.

Decoding a response takes some four times its size. Without a limit, every thread of the process
could do that at once with a large one, and all of them would compete for the interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

MAX_BYTES = 16 * 1024 * 1024  # a larger response is read, decoded and recorded alone
MAX_WAIT = 10.0  # seconds; no exchange or lease may end for the sake of memory


@dataclass(slots=True)
class Share:
    """What a block has taken."""

    taken: int = 0


_share: ContextVar[Share | None] = ContextVar("share", default=None)


class ResponseBudget:
    """The bytes that threads have taken, each until the end of its block. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES, *, max_wait: float = MAX_WAIT) -> None:
        self._max_bytes = max_bytes
        self._max_wait = max_wait
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Give back at the end of the block what this thread takes in it."""
        share = Share()
        token = _share.set(share)
        try:
            yield
        finally:
            _share.reset(token)
            with self._changed:
                self._taken -= share.taken
                self._changed.notify_all()

    def take(self, size: int) -> None:
        """Wait until so many bytes fit into the budget, and take them; outside a block, do nothing.

        A thread that has taken some already does not wait: others may be waiting for these.
        """
        share = _share.get()
        if share is None or not size:
            return
        with self._changed:
            if not share.taken:
                self._changed.wait_for(lambda: self._fits(size), self._max_wait)
            self._taken += size
            share.taken += size

    def _fits(self, size: int) -> bool:
        return not self._taken or self._taken + size <= self._max_bytes
