"""Read the rows of a list of jobs: progress and means together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from worker.store import job_list_queries
from worker.store.job_queries import JobProgress, MeanScore


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as lists show it."""

    job: JobProgress
    means: Sequence[MeanScore]

    @property
    def ended(self) -> int:
        return self.job.completed + self.job.failed + self.job.cancelled


def job_rows(connection: sa.Connection, job_ids: Sequence[UUID]) -> list[JobRow]:
    """Return the rows of these jobs in this order, without those that are gone."""
    progress = job_list_queries.progress_by_id(connection, job_ids)
    means = job_list_queries.means_by_job(connection, job_ids)
    return [
        JobRow(progress[job_id], means.get(job_id, ())) for job_id in job_ids if job_id in progress
    ]
