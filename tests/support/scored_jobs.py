"""Add ended jobs with given scores to a database, without a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.store.sql_functions import now
from worker.store.tables import evaluator_results, items, jobs


def add_scored_job(
    connection: sa.Connection,
    scores: Mapping[str, Sequence[float | None]],
    *,
    requests: Sequence[str] | None = None,
    metadata: Sequence[Any] | None = None,
    justification: str = "because",
    **job: Any,
) -> UUID:
    """Add a completed job; `scores` are those of each evaluator, by the index of the input."""
    job_id = uuid7()
    size = max(map(len, scores.values()))
    values = {"judge_id": "judge", "tags": [], "status": "completed"} | job
    connection.execute(sa.insert(jobs).values(id=job_id, due_at=None, finished_at=now(), **values))
    connection.execute(
        sa.insert(items).values(finished_at=now()),
        [
            {
                "job_id": job_id,
                "item_index": index,
                "request": requests[index] if requests else f"question {index}",
                "response": f"answer {index}",
                "metadata": metadata[index] if metadata else None,
                "status": "completed",
            }
            for index in range(size)
        ],
    )
    connection.execute(
        sa.insert(evaluator_results),
        [
            {
                "job_id": job_id,
                "item_index": index,
                "position": position,
                "evaluator_name": name,
                "score": score,
                "justification": justification,
            }
            for position, (name, given) in enumerate(scores.items())
            for index, score in enumerate(given)
        ],
    )
    return job_id
