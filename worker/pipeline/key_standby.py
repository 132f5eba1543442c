"""Leave work to the other replicas while the API refuses this one's key and takes another's.

The gate of the whole API closes only when no living replica has a key that may be good. Until then,
a replica whose key was refused takes no work but for a try now and then. It fetches no messages
meanwhile, and hands on those that it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random

from sqlalchemy.exc import SQLAlchemyError

from worker.domain.backoff import gate_wait
from worker.remote import JudgeAPI
from worker.store import replicas
from worker.store.database import Database

ASK_SECONDS = 5.0  # between two reads of the other replicas' rows
TRY_SECONDS = 30.0  # that a try may take before the next one


class KeyStandby:
    """What one process knows of its own key and of the others'. Thread-safe."""

    def __init__(
        self,
        database: Database,
        api: JudgeAPI,
        holder: str,
        rng: Random,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._key = api.key
        self._holder = holder
        self._rng = rng
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._refusals = 0  # in a row, of which the wait for a try is known
        self._try_at = float("-inf")
        self._ask_at = float("-inf")
        self._others_work = False

    def stands_by(self) -> bool:
        """Return whether this process takes no work from the API now."""
        refusal = self._key.refusal
        if refusal is None:
            return False
        with self._lock:
            now = self._monotonic()
            if refusal.count != self._refusals:
                self._refusals = refusal.count
                self._try_at = now + gate_wait(refusal.count + 1, self._rng)
                self._ask_at = now  # another replica may have come meanwhile
            is_due, self._ask_at = now >= self._ask_at, max(self._ask_at, now)
        if is_due:
            self._ask()
        return self._others_work and now < self._try_at

    def leaves_work(self) -> bool:
        """Return whether a step has to leave its batch alone; now and then, one may try."""
        if self.stands_by():
            return True
        if self._key.refusal is None or not self._others_work:
            return False
        with self._lock:  # of several steps, one is the try
            now = self._monotonic()
            if now < self._try_at:
                return True
            self._try_at = now + TRY_SECONDS
        return False

    def _ask(self) -> None:
        try:
            self._others_work = self._database.run(
                lambda tx: replicas.is_another_accepted(tx, self._holder)
            )
        except SQLAlchemyError:
            return  # the next step asks again
        self._ask_at = self._monotonic() + ASK_SECONDS
