"""How long the latest batches of each judge took, for all that this process knows: only a hint."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEPT = 64  # durations of a judge
JUDGES = 1000  # the one that was not heard of for longest is forgotten first


class Durations:
    """Seconds from submission to end, by judge. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, deque[float]] = OrderedDict()

    def learn(self, known: Iterable[tuple[str, float]]) -> None:
        """From judges and seconds, the latest last."""
        for judge_id, seconds in known:
            self.note(judge_id, seconds)

    def note(self, judge_id: str, seconds: float) -> None:
        with self._lock:
            self._latest.setdefault(judge_id, deque(maxlen=KEPT)).append(max(seconds, 0.0))
            self._latest.move_to_end(judge_id)
            if len(self._latest) > JUDGES:
                self._latest.popitem(last=False)

    def of(self, judge_id: str) -> Sequence[float]:
        """Sorted; empty where nothing is known."""
        with self._lock:
            return sorted(self._latest.get(judge_id, ()))
