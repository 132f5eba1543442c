"""Find the job or the batch whose id begins with some characters."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from worker.errors import NotPossible
from worker.store.tables import batches, jobs

HEX_DIGITS = 32  # of a UUID
SHOWN = 5  # ids that an ambiguous prefix names


def find_job(connection: sa.Connection, prefix: str) -> UUID:
    """Return the id of the job whose id begins so; raises `NotPossible`. A whole id stays."""
    return _find(connection, "job", jobs.c.id, prefix)


def find_batch(connection: sa.Connection, prefix: str) -> UUID:
    """Return the id of the batch whose id begins so; raises `NotPossible`. A whole id stays."""
    return _find(connection, "batch", batches.c.id, prefix)


def _find(connection: sa.Connection, noun: str, id_: sa.Column[UUID], prefix: str) -> UUID:
    digits = prefix.replace("-", "").lower()
    lowest = UUID(digits.ljust(HEX_DIGITS, "0"))
    if len(digits) == HEX_DIGITS:
        return lowest
    highest = UUID(digits.ljust(HEX_DIGITS, "f"))
    alike = sa.select(id_).where(id_.between(lowest, highest)).order_by(id_).limit(SHOWN + 1)
    found = connection.scalars(alike).all()
    if not found:
        raise NotPossible(f"no {noun} has an id that begins with {prefix}")
    if len(found) > 1:
        names = ", ".join(map(str, found[:SHOWN]))
        more = ", …" if len(found) > SHOWN else ""
        raise NotPossible(f"several {noun} ids begin with {prefix}, type more of: {names}{more}")
    return found[0]
