"""Read which inputs of a job a page is about: filter, order and position, from its address."""

from __future__ import annotations

from uuid import UUID

from worker.console.parameters import Parameters
from worker.console.problems import PageProblem
from worker.domain.lifecycle import Status
from worker.store.input_queries import InputFilter, Order, Position

STATUSES = tuple(Status)
ORDERS = tuple(Order)
NAMES = ("status", "reason", "q", "metadata", "evaluator", "min", "max", "below", "sort")
"""The parameters, which links from a list to an input carry along."""


def input_filter(job_id: UUID, query: Parameters) -> InputFilter:
    """Read filter and order; raises `PageProblem`."""
    return InputFilter(
        job_id,
        order=Order(query.choice("sort", ORDERS) or Order.INDEX),
        status=query.choice("status", STATUSES),
        error=query.text("reason"),
        text=query.text("q"),
        metadata=query.pair("metadata"),
        evaluator=query.text("evaluator"),
        at_least=query.number("min"),
        at_most=query.number("max"),
        below=query.number("below"),
    )


def position_at(query: Parameters, name: str) -> Position | None:
    """Read a position as `position_text` writes it."""
    value = query.text(name)
    if value is None:
        return None
    rank, _, index = value.rpartition("_")
    number = Parameters([(name, rank)]).number(name)
    item_index = Parameters([(name, index)]).integer(name)
    if number is None or item_index is None:
        raise PageProblem(400, f"The address has a broken {name}.", "Start from the first page.")
    return Position(number, item_index)


def position_text(position: Position) -> str:
    """Write a position so that reading it returns the very same rank."""
    return f"{float(position.rank)!r}_{position.item_index}"
