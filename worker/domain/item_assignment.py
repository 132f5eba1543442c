"""Decide which item of an ended batch belongs to which input that was sent.

The index of an item counts from 0 in the submitted batch, and nearly always that settles it. But a
server may count from 1, leave the index out or respond in another order; then the echo of the input
decides, and without an echo the order of the items, if all are there. Nothing is ever assigned
against an echo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.domain.echoes import agrees, compared, contradicts, has_content
from worker.domain.outcomes import RemoteItem

Inputs = Mapping[int, Mapping[str, Any]]
"""The inputs that were sent, by index; an empty one is no longer known."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Items by the index of their input in the batch; `surplus` ones belong to none."""

    items: Mapping[int, RemoteItem]
    surplus: Sequence[RemoteItem] = ()
    oddity: str | None = None  # where the items' own indices are not what counts


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The items cannot be told apart: to record any of them would be a guess."""

    reason: str


def assign_items(items: Sequence[RemoteItem], sent: Inputs) -> Assignment | Ambiguous:
    """Assign each item to its input."""
    # Of equal inputs, items that are numbered alike may be equal without being repetitions.
    distinct = items if len(items) <= len(sent) else _without_repetitions(items)
    by_index = _assign_by_index(distinct, sent)
    if by_index is not None and _may_count_from_1(by_index.items, sent):
        return Ambiguous("item 0 is missing, or the last one is and the others count from 1")
    if by_index is not None:
        return by_index
    if any(has_content(item.input) for item in distinct):
        return _assign_by_content(distinct, sent)
    return _assign_by_order(distinct, sent)


def _without_repetitions(items: Sequence[RemoteItem]) -> list[RemoteItem]:
    """Leave out items that say the same as an earlier one of the same index."""
    seen: dict[int, RemoteItem] = {}
    return [
        item
        for item in items
        if item.index is None
        or seen.setdefault(item.index, item) is item
        or item != seen[item.index]
    ]


def _assign_by_index(items: Sequence[RemoteItem], sent: Inputs) -> Assignment | None:
    """Take each item at its index; None if an index is missing, doubled or contradicted.

    An index beyond the batch is none to trust either, unless every input has its item.
    """
    assigned: dict[int, RemoteItem] = {}
    surplus: list[RemoteItem] = []
    for item in items:
        if item.index is None or item.index in assigned:
            return None
        given = sent.get(item.index)
        if given is None:
            surplus.append(item)
        elif given and contradicts(item.input, given):
            return None
        else:
            assigned[item.index] = item
    if surplus and len(assigned) < len(sent):
        return None
    return Assignment(assigned, surplus)


def _may_count_from_1(items: Mapping[int, RemoteItem], sent: Inputs) -> bool:
    """Return whether the items would fit the inputs before theirs just as well."""
    if not items or 0 in items or len(items) == len(sent):
        return False
    return not any(contradicts(item.input, sent.get(at - 1, {})) for at, item in items.items())


def _assign_by_order(items: Sequence[RemoteItem], sent: Inputs) -> Assignment | Ambiguous:
    """Take the items in order if all are there: without indices, or numbered in a row."""
    indices = [item.index for item in items if item.index is not None]
    if len(items) != len(sent):
        return Ambiguous(
            f"{len(items)} items are shown for {len(sent)} inputs, without usable indices or inputs"
        )
    if not indices:
        return Assignment(
            dict(zip(sorted(sent), items, strict=True)), oddity="no item has an index"
        )
    first = min(indices)
    if sorted(indices) != list(range(first, first + len(items))):
        return Ambiguous("the indices of the items are no numbering of the inputs")
    ordered = sorted(items, key=lambda item: item.index or 0)
    return Assignment(
        dict(zip(sorted(sent), ordered, strict=True)), oddity=f"the items are numbered from {first}"
    )


def _assign_by_content(items: Sequence[RemoteItem], sent: Inputs) -> Assignment | Ambiguous:
    """Take each item at the input that it echoes; equal inputs may swap their items."""
    free = dict(sent)
    inputs = {index: compared(given) for index, given in sent.items()}
    assigned: dict[int, RemoteItem] = {}
    for item in sorted(items, key=lambda item: not _is_at_its_index(item, sent)):
        fits = _fitting(item, inputs)
        first = next((index for index in fits if index in free), None)
        if any(sent[index] != sent[fits[0]] for index in fits):
            return Ambiguous(f"{_name(item)} may belong to several inputs")
        if not fits:
            return Ambiguous(f"{_name(item)} echoes no input of this batch")
        if first is None:
            return Ambiguous(f"several items echo the same input; one of them is {_name(item)}")
        if item.index in fits and item.index in free:
            first = item.index
        assigned[first] = item
        del free[first]
    return Assignment(assigned, oddity="items are not at the index of the input that they echo")


def _fitting(item: RemoteItem, inputs: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Return the inputs of which this may be the item, by what it echoes."""
    if item.input is None or not has_content(item.input):
        return []
    shown = compared(item.input)
    return [index for index, given in inputs.items() if agrees(shown, given)]


def _is_at_its_index(item: RemoteItem, sent: Inputs) -> bool:
    given = sent.get(item.index) if item.index is not None else None
    return given is not None and not contradicts(item.input, given)


def _name(item: RemoteItem) -> str:
    has_index = item.index is not None and item.index >= 0
    return f"item {item.index}" if has_index else "an item without a usable index"
