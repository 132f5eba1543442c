"""Say what a reader has to know before trusting a comparison: how the jobs differ otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from worker.domain.pair_key import PairedBy
from worker.domain.phrases import quantity
from worker.store.comparison_queries import JobComparison
from worker.store.job_queries import JobProgress
from worker.store.views import score_summary


def comparison_notes(connection: sa.Connection, found: JobComparison) -> list[str]:
    """Return the notes as sentences, in which A is the first job and B the second."""
    return [
        *_pair_notes(found),
        *_state_notes("A", found.first),
        *_state_notes("B", found.second),
        *_judge_notes(connection, found.first, found.second),
        *_evaluator_notes(found.not_compared),
    ]


def _pair_notes(found: JobComparison) -> Iterator[str]:
    counts = found.counts
    if counts.different_requests:
        remedy = ""
        if found.pairing.by is PairedBy.INDEX:
            remedy = " If the inputs are in another order, pair them by request."
        yield (
            f"Two different requests are in {counts.different_requests:,} of "
            f"{quantity(counts.pairs, 'pair')}.{remedy}"
        )
    if counts.only_first or counts.only_second:
        yield (
            f"Without a partner, and left out: {quantity(counts.only_first, 'input')} of A and "
            f"{quantity(counts.only_second, 'input')} of B."
        )
    if counts.without_key:
        left_out = quantity(counts.without_key, "input")
        yield f"Without {found.pairing.words}, and left out: {left_out}."


def _state_notes(name: str, job: JobProgress) -> Iterator[str]:
    if job.finished_at is None:
        yield (
            f"{name} has not ended: {job.completed:,} of {quantity(job.total, 'input')} have "
            "results."
        )
    elif job.completed < job.total:
        yield f"{name} has no results for {quantity(job.total - job.completed, 'input')}."


def _judge_notes(
    connection: sa.Connection, first: JobProgress, second: JobProgress
) -> Iterator[str]:
    if first.judge_id != second.judge_id:
        yield f"The jobs have different judges: {first.judge_id} and {second.judge_id}."
        return
    if first.finished_at is None or second.finished_at is None:
        return  # which versions ran is known at the end
    versions = _versions(connection, first), _versions(connection, second)
    if versions[0] != versions[1]:
        words = " and ".join(" or ".join(one) or "unknown" for one in versions)
        yield f"The judge had different versions: {words}. A difference may be its own."


def _versions(connection: sa.Connection, job: JobProgress) -> Sequence[str]:
    """Return the versions that ran, of a job that has ended."""
    chosen = (
        sa.select(score_summary.c.judge_version_id)
        .distinct()
        .where(score_summary.c.job_id == job.job_id, score_summary.c.judge_version_id.isnot(None))
        .order_by(score_summary.c.judge_version_id)
    )
    return connection.scalars(chosen).all()


def _evaluator_notes(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"Without a score in both jobs, and not compared: {', '.join(names)}."
