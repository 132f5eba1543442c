"""Read the rows of a list of inputs: texts, and a column of scores for each evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from worker.store import input_queries
from worker.store.input_queries import InputRow, Place


@dataclass(frozen=True, slots=True)
class InputTable:
    """Inputs with their scores by evaluator's name; `evaluators` are the columns."""

    rows: Sequence[InputRow]
    evaluators: Sequence[str]
    scores: Mapping[int, Mapping[str, float | None]]


def input_table(connection: sa.Connection, job_id: UUID, places: Sequence[Place]) -> InputTable:
    """Return the table of these inputs in this order."""
    indexes = [place.item_index for place in places]
    scores: dict[int, dict[str, float | None]] = {index: {} for index in indexes}
    names: set[str] = set()
    for row in input_queries.scores_of(connection, job_id, indexes):
        scores[row.item_index][row.evaluator_name] = row.score
        names.add(row.evaluator_name)
    return InputTable(input_queries.rows_of(connection, job_id, indexes), sorted(names), scores)
