"""Pack waiting items into batches, and decide when a part-filled batch goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID


class WaitingItem(NamedTuple):
    """A waiting item, as far as packing needs to know it."""

    job_id: UUID
    item_index: int
    size: int  # bytes of its texts
    waited: float  # seconds


def pack(
    waiting: Iterable[WaitingItem], *, max_items: int, max_bytes: int
) -> list[tuple[WaitingItem, ...]]:
    """Cut the items into batches, in order. An item above the byte limit goes alone."""
    batches: list[tuple[WaitingItem, ...]] = []
    current: list[WaitingItem] = []
    size = 0
    for item in waiting:
        if current and (len(current) == max_items or size + item.size > max_bytes):
            batches.append(tuple(current))
            current, size = [], 0
        current.append(item)
        size += item.size
    if current:
        batches.append(tuple(current))
    return batches


def ready(
    batches: Sequence[tuple[WaitingItem, ...]], *, max_items: int, linger: float, more: bool
) -> tuple[list[tuple[WaitingItem, ...]], float | None]:
    """Return the batches that go now, and the seconds until the rest does (None: nothing is left).

    Only the last batch can be part-filled. It goes when its oldest item has waited for `linger`
    seconds, or if there are `more` waiting items than were packed.
    """
    if not batches or more:
        return list(batches), None
    *full, last = batches
    oldest = max(item.waited for item in last)
    if len(last) >= max_items or oldest >= linger:
        return [*full, last], None
    return full, linger - oldest
