"""How waiting items are packed into batches, and when a part-filled batch goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item that waits, as far as packing needs to know it."""

    job_id: object
    item_index: int
    size: int  # bytes of its texts
    waited: float  # seconds


def pack(
    waiting: Iterable[Waiting], *, most_items: int, most_bytes: int
) -> list[tuple[Waiting, ...]]:
    """Cuts into batches, in order; an item over the byte limit travels alone."""
    batches: list[tuple[Waiting, ...]] = []
    current: list[Waiting] = []
    size = 0
    for item in waiting:
        if current and (len(current) == most_items or size + item.size > most_bytes):
            batches.append(tuple(current))
            current, size = [], 0
        current.append(item)
        size += item.size
    if current:
        batches.append(tuple(current))
    return batches


def ready(
    batches: Sequence[tuple[Waiting, ...]], *, most_items: int, linger: float, more: bool
) -> tuple[list[tuple[Waiting, ...]], float | None]:
    """Which packed batches go now, and in how many seconds the rest does (None: nothing waits).

    Only the last one can be part-filled. It goes when its oldest item has waited for company
    long enough; if there is `more` beyond what was packed, its company is already there.
    """
    if not batches or more:
        return list(batches), None
    *full, last = batches
    oldest = max(item.waited for item in last)
    if len(last) >= most_items or oldest >= linger:
        return [*full, last], None
    return full, linger - oldest
