"""Read the rows of a list of inputs: texts, and a column of scores for each evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from worker.store import input_queries
from worker.store.input_queries import InputRow, Position, ScoreRow


@dataclass(frozen=True, slots=True)
class InputTable:
    """Inputs with their scores by evaluator's name, and why the lowest one is so low.

    `evaluators` are the columns.
    """

    rows: Sequence[InputRow]
    evaluators: Sequence[str]
    scores: Mapping[int, Mapping[str, float | None]]
    reasons: Mapping[int, str | None]


def input_table(
    connection: sa.Connection, job_id: UUID, positions: Sequence[Position]
) -> InputTable:
    """Return the table of these inputs in this order."""
    indexes = [position.item_index for position in positions]
    given: dict[int, list[ScoreRow]] = {index: [] for index in indexes}
    for row in input_queries.scores_of(connection, job_id, indexes):
        given[row.item_index].append(row)
    names = {row.evaluator_name for rows in given.values() for row in rows}
    return InputTable(
        input_queries.rows_of(connection, job_id, indexes),
        sorted(names),
        {index: {row.evaluator_name: row.score for row in rows} for index, rows in given.items()},
        {index: _lowest_reason(rows) for index, rows in given.items()},
    )


def _lowest_reason(rows: Sequence[ScoreRow]) -> str | None:
    """Return the reason of the lowest score, as far as one was given."""
    explained = [row for row in rows if row.score is not None and row.justification]
    lowest = min(explained, key=lambda row: (row.score, row.evaluator_name), default=None)
    return None if lowest is None else lowest.justification
